// SPDX-License-Identifier: Apache-2.0
// Sorting of 64-bit integers by one block.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace effdet {

// Every 16th place is left free, so that threads that read every 8th rank use different banks.
__host__ __device__ inline uint32_t padded(uint32_t i) { return i + i / 16; }

// kSteps steps of a bitonic merge at once, on groups of 2^kSteps ranks that lie 2^low apart.
template <int kThreads, int kSteps>
__device__ void merge_steps(uint64_t* ranks, uint32_t count, int low, int stage) {
  constexpr int kGroup = 1 << kSteps;
  for (uint32_t group = threadIdx.x; group < count >> kSteps; group += kThreads) {
    const uint32_t start = group >> low << (low + kSteps) | (group & ((1u << low) - 1));
    const bool falling = start >> stage & 1;
    uint64_t values[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) values[i] = ranks[padded(start + (i << low))];
#pragma unroll
    for (int stride = kGroup / 2; stride > 0; stride /= 2) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        if (i & stride) continue;
        const uint64_t a = values[i], b = values[i + stride];
        const bool swap = (a > b) != falling;
        values[i] = swap ? b : a;
        values[i + stride] = swap ? a : b;
      }
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) ranks[padded(start + (i << low))] = values[i];
  }
  __syncthreads();
}

// Sorts 2^log_count ranks, the lowest first, in shared or global memory: Batcher's bitonic sort.
// For all kThreads threads of a block, after a barrier.
template <int kThreads>
__device__ void sort_ranks(uint64_t* ranks, int log_count) {
  const uint32_t count = 1u << log_count;
  for (int stage = 1; stage <= log_count; ++stage) {
    for (int top = stage; top > 0; top -= 3) {
      if (top >= 3) {
        merge_steps<kThreads, 3>(ranks, count, top - 3, stage);
      } else if (top == 2) {
        merge_steps<kThreads, 2>(ranks, count, 0, stage);
      } else {
        merge_steps<kThreads, 1>(ranks, count, 0, stage);
      }
    }
  }
}

}  // namespace effdet
