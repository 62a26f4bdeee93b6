// SPDX-License-Identifier: Apache-2.0
// Inner loop of rescale_: values times a factor, in place.
#pragma once
#include <cstdint>

#include "simd.h"

namespace effdet {

EFFDET_DECLARE_SIMD(void rescale(FloatType type, void* values, int64_t count, float factor))

}  // namespace effdet
