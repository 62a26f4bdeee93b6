// SPDX-License-Identifier: Apache-2.0
// The pieces of work of the moving average, and its inner loops on the CPU.
#pragma once
#include <cstdint>

#include "simd.h"

namespace effdet {

// How an average follows its values. A float32 average follows float32 and 16-bit values, a float64
// average float64 values; integers are copied.
enum class EmaKind { float32, float16, bfloat16, float64, copy };

// An average and its values, both without gaps and in the same order.
struct EmaPair {
  EmaKind kind;
  char* average;
  const char* value;
  int64_t count;  // elements
  int64_t bytes;  // of the average
};

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
