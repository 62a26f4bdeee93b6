// SPDX-License-Identifier: Apache-2.0
// Arithmetic of the inner loops, written so that the compiler can vectorise it: no calls, no
// branches, no headers with code in them.
#pragma once
#include <cstdint>

#define EFFDET_INLINE static inline __attribute__((always_inline))

namespace effdet::EFFDET_ISA {

EFFDET_INLINE float maximum(float a, float b) { return a > b ? a : b; }
EFFDET_INLINE float minimum(float a, float b) { return a < b ? a : b; }

// a * b + c. Elsewhere products and sums are rounded one by one (-ffp-contract=off), so that
// results equal those of PyTorch to the last bit.
EFFDET_INLINE float multiply_add(float a, float b, float c) {
#ifdef EFFDET_FMA
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

EFFDET_INLINE float float_of_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

EFFDET_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The larger of `value` and 0; NaN stays NaN.
EFFDET_INLINE float positive_part(float value) { return value < 0.f ? 0.f : value; }

// How a storage type becomes float and back (to nearest, ties to even). `Float16` and `BFloat16`
// stand for their 16 bits.
struct Float32 {
  using Storage = float;
  EFFDET_INLINE float load(const float* at) { return *at; }
  EFFDET_INLINE void store(float* at, float value) { *at = value; }
};

struct BFloat16 {
  using Storage = uint16_t;
  EFFDET_INLINE float load(const uint16_t* at) { return float_of_bits(uint32_t(*at) << 16); }
  EFFDET_INLINE void store(uint16_t* at, float value) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    // A NaN must not round up to infinity or zero.
    *at = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
  }
};

struct Float16 {
  using Storage = uint16_t;
  EFFDET_INLINE float load(const uint16_t* at) {
    const uint32_t half = *at, sign = (half & 0x8000u) << 16, magnitude = (half & 0x7fffu) << 13;
    const float shifted = float_of_bits(magnitude) * float_of_bits(0x77800000u);  // times 2^112
    const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // infinity and NaN
    return float_of_bits(bits_of_float(shifted) | special | sign);
  }
  EFFDET_INLINE void store(uint16_t* at, float value) {
    const uint32_t bits = bits_of_float(value), sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    // Below 2^-14 the result is subnormal: adding 0.5 lets the adder do the rounding.
    const uint32_t subnormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint32_t beyond = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    *at = uint16_t((magnitude >= 0x477ff000u ? beyond : finite) | sign);
  }
};

// 2^t for t in [-126, 127]; relative error 1e-7. The polynomials are minimax fits of our own,
// evaluated by Estrin's scheme: the loops wait for chains of dependent instructions, not for
// their number.
EFFDET_INLINE float exp2_in_range(float t) {
  const float shifter = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = t + shifter;
  const uint32_t exponent = bits_of_float(shifted) << 23;
  const float f = t - (shifted - shifter), f2 = f * f;  // f in [-0.5, 0.5]
  const float low = multiply_add(0.69314718f, f, 1.f);
  const float middle = multiply_add(0.055503286f, f, 0.24022646f);
  const float top = multiply_add(0.0013399931f, f, 0.009618489f);
  const float high = multiply_add(0.00015345812f, f2, top);
  const float p = multiply_add(multiply_add(high, f2, middle), f2, low);
  return float_of_bits(bits_of_float(p) + exponent);
}

// log(1 + e) for e in [0, 1]; relative error 1e-7, also where e is tiny.
EFFDET_INLINE float log1p_in_range(float e) {
  const float e2 = e * e, e4 = e2 * e2;
  const float p01 = multiply_add(-0.49999493f, e, 0.99999994f);
  const float p23 = multiply_add(-0.24842982f, e, 0.33319098f);
  const float p45 = multiply_add(-0.13663244f, e, 0.19106007f);
  const float p67 = multiply_add(-0.029505232f, e, 0.07822594f);
  const float low = multiply_add(p23, e2, p01);
  const float high = multiply_add(0.0052326927f, e4, multiply_add(p67, e2, p45));
  return e * multiply_add(high, e4, low);
}

}  // namespace effdet::EFFDET_ISA
