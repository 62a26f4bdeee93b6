// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "ema.h"
#include "simd_math.h"

namespace effdet::EFFDET_ISA {

struct Float64 {
  using Storage = double;
  EFFDET_INLINE double load(const double* at) { return *at; }
};

// As torch.lerp: from the nearer end, so that a weight of 1 gives the value itself.
template <typename Value, typename Average>
EFFDET_INLINE void lerp(Average* average, const typename Value::Storage* value, int64_t count,
                        Average weight) {
  if (weight < Average(0.5)) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i)
      average[i] = average[i] + weight * (Value::load(value + i) - average[i]);
    return;
  }
  const Average rest = 1 - weight;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Average now = Value::load(value + i);
    average[i] = now - rest * (now - average[i]);
  }
}

void lerp_float32(float* average, const float* value, int64_t count, float weight) {
  lerp<Float32>(average, value, count, weight);
}

void lerp_float16(float* average, const uint16_t* value, int64_t count, float weight) {
  lerp<Float16>(average, value, count, weight);
}

void lerp_bfloat16(float* average, const uint16_t* value, int64_t count, float weight) {
  lerp<BFloat16>(average, value, count, weight);
}

void lerp_float64(double* average, const double* value, int64_t count, double weight) {
  lerp<Float64>(average, value, count, weight);
}

}  // namespace effdet::EFFDET_ISA
