// SPDX-License-Identifier: Apache-2.0
// What several kernels share on the device. Like every .cuh here it includes no header of torch, so
// that tests/cuda_shim can compile it for the CPU.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace effdet {

// --- memory ---

// The shared memory whose size the launch gives, aligned to 16 bytes.
template <typename T>
__device__ T* dynamic_shared_memory() {
#ifdef CUDA_SHIM
  return reinterpret_cast<T*>(cuda_shim::machine.dynamic_memory);
#else
  extern __shared__ __align__(16) unsigned char effdet_dynamic_shared_memory[];
  return reinterpret_cast<T*>(effdet_dynamic_shared_memory);
#endif
}

// How a storage type is computed with, and what 16 bytes of it hold.
template <typename scalar_t>
struct Storage;

template <>
struct Storage<float> {
  using compute_t = float;
  static constexpr int kVector = 4;
  static __device__ float load(const float* at) { return *at; }
  static __device__ void store(float* at, float value) { *at = value; }
  static __device__ void unpack(const uint4& packed, float (&values)[4]) {
    values[0] = __uint_as_float(packed.x), values[1] = __uint_as_float(packed.y);
    values[2] = __uint_as_float(packed.z), values[3] = __uint_as_float(packed.w);
  }
  static __device__ uint4 pack(const float (&values)[4]) {
    return make_uint4(__float_as_uint(values[0]), __float_as_uint(values[1]),
                      __float_as_uint(values[2]), __float_as_uint(values[3]));
  }
};

template <>
struct Storage<double> {
  using compute_t = double;
  static constexpr int kVector = 2;
  static __device__ double load(const double* at) { return *at; }
  static __device__ void store(double* at, double value) { *at = value; }
  static __device__ void unpack(const uint4& packed, double (&values)[2]) {
    memcpy(values, &packed, sizeof packed);
  }
  static __device__ uint4 pack(const double (&values)[2]) {
    uint4 packed;
    memcpy(&packed, values, sizeof packed);
    return packed;
  }
};

// A 16-bit type by its conversions of two values (`bits`: the lower half comes first).
template <typename Convert>
struct Storage16 {
  using compute_t = float;
  static constexpr int kVector = 8;
  static __device__ void unpack(const uint4& packed, float (&values)[8]) {
    const unsigned words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = Convert::unpack(words[i]);
      values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
    }
  }
  static __device__ uint4 pack(const float (&values)[8]) {
    return make_uint4(Convert::pack(values[0], values[1]), Convert::pack(values[2], values[3]),
                      Convert::pack(values[4], values[5]), Convert::pack(values[6], values[7]));
  }
};

template <typename pair_t>
__device__ unsigned bits_of_pair(pair_t pair) {
  unsigned bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

struct ConvertHalf {
  static __device__ float2 unpack(unsigned bits) {
    __half2 pair;
    memcpy(&pair, &bits, sizeof pair);
    return __half22float2(pair);
  }
  static __device__ unsigned pack(float x, float y) {
    return bits_of_pair(__floats2half2_rn(x, y));
  }
};

struct ConvertBFloat16 {
  static __device__ float2 unpack(unsigned bits) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
  }
  static __device__ unsigned pack(float x, float y) {
    return bits_of_pair(__floats2bfloat162_rn(x, y));
  }
};

template <>
struct Storage<__half> : Storage16<ConvertHalf> {
  static __device__ float load(const __half* at) { return __half2float(*at); }
  static __device__ void store(__half* at, float value) { *at = __float2half_rn(value); }
};

template <>
struct Storage<__nv_bfloat16> : Storage16<ConvertBFloat16> {
  static __device__ float load(const __nv_bfloat16* at) { return __bfloat162float(*at); }
  static __device__ void store(__nv_bfloat16* at, float value) { *at = __float2bfloat16_rn(value); }
};

// 16 bytes that are touched once ("cs": streaming), at a multiple of 16.
template <typename scalar_t, typename compute_t, int kVector>
__device__ __forceinline__ void load_vector(const scalar_t* at, compute_t (&values)[kVector]) {
  Storage<scalar_t>::unpack(__ldcs(reinterpret_cast<const uint4*>(at)), values);
}

template <typename scalar_t, typename compute_t, int kVector>
__device__ __forceinline__ void store_vector(scalar_t* at, const compute_t (&values)[kVector]) {
  __stcs(reinterpret_cast<uint4*>(at), Storage<scalar_t>::pack(values));
}

// --- arithmetic ---

// Single instructions of the special function units; relative errors about 2^-22. Numbers below
// 2^-126 count as 0.
#ifdef CUDA_SHIM
inline float exp2_approx(float x) { return exp2f(x); }
inline float reciprocal_approx(float x) { return 1 / x; }
inline float sqrt_approx(float x) { return sqrtf(x); }
#else
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float sqrt_approx(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

// Division by a number that only the host knows, as one multiplication; exact for numerators below
// 2^31 (Granlund and Montgomery 1994).
struct Division {
  uint32_t multiplier = 1u << 31, shift = 31;

  Division() = default;
  explicit Division(uint32_t divisor) {
    uint32_t bits = 0;
    while ((uint64_t{1} << bits) < divisor) ++bits;
    shift = 31 + bits;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << shift) + divisor - 1) / divisor);
  }
  __device__ __forceinline__ uint32_t quotient(uint32_t numerator) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(numerator) * multiplier) >> shift);
  }
};

// --- over a warp and a block ---

// Maximum over the lanes of a full warp.
__device__ inline uint32_t warp_max(uint32_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value = max(value, __shfl_xor_sync(~0u, value, lanes));
  }
  return value;
#else
  return __reduce_max_sync(~0u, value);
#endif
}

// Sum over the block's threads; valid in thread 0. A second call needs a barrier in between.
template <int kThreads>
__device__ double block_sum(double value) {
  __shared__ double warp_sums[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (int warp = 0; warp < kThreads / 32; ++warp) sum += warp_sums[warp];
  }
  return sum;
}

constexpr int kSumThreads = 1024;

// One block: loss = sum of `count` partial sums / normalizer.
template <typename compute_t>
__global__ void __launch_bounds__(kSumThreads)
    mean_of_partial_sums(const double* partial_sums, int64_t count, const compute_t* normalizer,
                         compute_t* loss) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += partial_sums[i];
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) *loss = static_cast<compute_t>(sum / static_cast<double>(*normalizer));
}

}  // namespace effdet
