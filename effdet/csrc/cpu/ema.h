// SPDX-License-Identifier: Apache-2.0
// Inner loops of the moving average.
#pragma once
#include <cstdint>

#include "../common/ema_pair.h"
#include "simd.h"

namespace effdet {

// Each moves `count` averages towards `value` by `weight`; the 16-bit types stand for their bits.
EFFDET_DECLARE_SIMD(void lerp_float32(float* average, const float* value, int64_t count,
                                      float weight))
EFFDET_DECLARE_SIMD(void lerp_float16(float* average, const uint16_t* value, int64_t count,
                                      float weight))
EFFDET_DECLARE_SIMD(void lerp_bfloat16(float* average, const uint16_t* value, int64_t count,
                                       float weight))
EFFDET_DECLARE_SIMD(void lerp_float64(double* average, const double* value, int64_t count,
                                      double weight))

}  // namespace effdet
