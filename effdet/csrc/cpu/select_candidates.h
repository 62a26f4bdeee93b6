// SPDX-License-Identifier: Apache-2.0
// Inner loops of the selection: which of many values reach a floor. Few do, so that blocks of
// values are tested at once and looked into only where one does.
#pragma once
#include <cstdint>

#include "simd.h"

namespace effdet {

// The positions in [0, size) of the values >= floor, in their order, and how many there are.
// `positions` has room for `size`.
EFFDET_DECLARE_SIMD(int64_t reaching_float32(const float* values, int64_t size, float floor,
                                             int32_t* positions))
EFFDET_DECLARE_SIMD(int64_t reaching_16bit(const uint16_t* values, int64_t size, int16_t floor,
                                           int32_t* positions))

}  // namespace effdet
