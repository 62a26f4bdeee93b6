// SPDX-License-Identifier: Apache-2.0
// The rank of an (anchor, class) pair: one integer made of its logit and its flat index. A lower
// rank is a better pair, and no two are equal.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace effdet {

// An integer that rises with x, which is not NaN; 0 and -0 give the same one. Never 0.
__device__ inline uint32_t order_of_float(float x) {
  const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.f));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ inline float float_of_order(uint32_t order) {
  return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

// The upper bits of order_of_float that differ among the numbers of a type.
template <typename scalar_t>
inline constexpr int kKeyBits = 0;
template <>
inline constexpr int kKeyBits<float> = 32;
template <>
inline constexpr int kKeyBits<__half> = 19;
template <>
inline constexpr int kKeyBits<__nv_bfloat16> = 16;

// Falls with x.
template <typename scalar_t>
__device__ uint32_t key_of_float(float x) {
  return ~order_of_float(x) >> (32 - kKeyBits<scalar_t>);
}

template <typename scalar_t>
__device__ float float_of_key(uint32_t key) {
  constexpr int kDropped = 32 - kKeyBits<scalar_t>;
  const uint32_t order = ~(key << kDropped);
  // The dropped bits are 0 in the float: in the order so above zero, inverted below.
  return float_of_order(order >> 31 ? order & (~0u << kDropped) : order);
}

// The key above the index, which is `index_bits` long.
template <typename scalar_t>
__device__ uint64_t rank_of(float x, uint32_t flat, int index_bits) {
  return static_cast<uint64_t>(key_of_float<scalar_t>(x)) << index_bits | flat;
}

__device__ inline uint32_t index_of_rank(uint64_t rank, int index_bits) {
  return static_cast<uint32_t>(rank & ((uint64_t{1} << index_bits) - 1));
}

template <typename scalar_t>
__device__ float logit_of_rank(uint64_t rank, int index_bits) {
  return float_of_key<scalar_t>(static_cast<uint32_t>(rank >> index_bits));
}

}  // namespace effdet
