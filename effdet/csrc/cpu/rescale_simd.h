// SPDX-License-Identifier: Apache-2.0
// Values times a factor, in place. See rescale.h and simd.h.
#pragma once
#include "rescale.h"
#include "simd_math.h"

namespace effdet::EFFDET_ISA {

template <typename Type>
void rescale_typed(void* values, int64_t count, float factor) {
  auto* x = static_cast<typename Type::Storage*>(values);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) Type::store(x + i, Type::load(x + i) * factor);
}

void rescale(FloatType type, void* values, int64_t count, float factor) {
  if (type == FloatType::bfloat16) return rescale_typed<BFloat16>(values, count, factor);
  if (type == FloatType::float16) return rescale_typed<Float16>(values, count, factor);
  rescale_typed<Float32>(values, count, factor);
}

}  // namespace effdet::EFFDET_ISA
