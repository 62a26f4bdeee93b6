// SPDX-License-Identifier: Apache-2.0
// Inner loops of select_candidates.h.
#pragma once
#include "select_candidates.h"
#include "simd_math.h"

namespace effdet::EFFDET_ISA {

constexpr int kSelectBlock = 64;

EFFDET_INLINE bool reaches(float value, float floor) { return value >= floor; }

// 16-bit floats are compared as integers: below 0, larger bit patterns are smaller numbers.
EFFDET_INLINE bool reaches(uint16_t bits, int16_t floor) {
  const int16_t value = int16_t(bits);
  return int16_t(value ^ ((value >> 15) & 0x7fff)) >= floor;
}

EFFDET_INLINE bool any_reaches(const float* values, float floor) {
  int any = 0;
#pragma omp simd reduction(| : any)
  for (int i = 0; i < kSelectBlock; ++i) any |= reaches(values[i], floor);
  return any;
}

EFFDET_INLINE bool any_reaches(const uint16_t* values, int16_t floor) {
  int16_t any = 0;  // as wide as the values, so that a vector holds as many
#pragma omp simd reduction(| : any)
  for (int i = 0; i < kSelectBlock; ++i) any |= int16_t(-int16_t(reaches(values[i], floor)));
  return any;
}

template <typename value_t, typename floor_t>
EFFDET_INLINE int64_t reaching(const value_t* values, int64_t size, floor_t floor,
                               int32_t* positions) {
  int64_t count = 0;
  for (int64_t begin = 0; begin < size; begin += kSelectBlock) {
    const int64_t end = begin + kSelectBlock < size ? begin + kSelectBlock : size;
    if (end - begin == kSelectBlock && !any_reaches(values + begin, floor)) continue;
    for (int64_t i = begin; i < end; ++i) {  // without a branch: what comes is not predictable
      positions[count] = int32_t(i);
      count += reaches(values[i], floor);
    }
  }
  return count;
}

int64_t reaching_float32(const float* values, int64_t size, float floor, int32_t* positions) {
  return reaching(values, size, floor, positions);
}

int64_t reaching_16bit(const uint16_t* values, int64_t size, int16_t floor, int32_t* positions) {
  return reaching(values, size, floor, positions);
}

}  // namespace effdet::EFFDET_ISA
