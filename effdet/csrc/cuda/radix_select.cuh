// SPDX-License-Identifier: Apache-2.0
// The search for the C lowest ranks of an image: the ranks are counted by their first 12 bits, in
// the bins of a histogram, and the bin that holds the C-th is looked into with the next 12 bits.
#pragma once
#include <cmath>

#include "rank.cuh"

namespace effdet {

constexpr int kDigitBits = 12;
constexpr uint32_t kBins = 1u << kDigitBits;

// How far the search for an image's C best pairs is. Those whose rank >> undecided_bits is below
// `prefix` belong to them, those where it is equal may.
struct Cut {
  uint64_t prefix;
  int undecided_bits;
  uint32_t num_better;  // pairs below the prefix
  uint32_t done;        // the pairs up to the prefix fit the buffer
  uint32_t finished_blocks;
  uint32_t num_collected;
};

__device__ inline Cut first_cut(int rank_bits) { return {0, rank_bits, 0, 0, 0, 0}; }

// The bin of a rank among those that agree with the prefix; kBins or more if it does not agree.
__device__ inline uint64_t bin_of_rank(const Cut& cut, int remaining_bits, uint64_t rank) {
  return (rank >> remaining_bits) - (cut.prefix << (cut.undecided_bits - remaining_bits));
}

__device__ inline int bits_after_digit(const Cut& cut) {
  return max(cut.undecided_bits - kDigitBits, 0);
}

// The lowest logit that may have a rank up to the prefix.
template <typename scalar_t>
__device__ float lowest_logit(uint64_t prefix, int undecided_bits, int index_bits) {
  const uint64_t last_rank = (prefix << undecided_bits) + ((uint64_t{1} << undecided_bits) - 1);
  const float x = logit_of_rank<scalar_t>(last_rank, index_bits);
  return isnan(x) ? -INFINITY : x;  // below all numbers
}

// --- histograms ---

// Counts in shared memory; equal bins in a row, as from an untrained head, with one atomic.
struct RunningCount {
  uint32_t* histogram;
  uint32_t bin = 0, count = 0;
  __device__ void add(uint32_t next) {
    if (next != bin) flush();
    bin = next;
    ++count;
  }
  __device__ void flush() {
    if (count > 0) atomicAdd(histogram + bin, count);
    count = 0;
  }
};

struct BinCut {
  uint32_t bin;         // where the count from bin 0 on reaches what is wanted, else the last bin
  uint32_t num_before;  // counted in the bins before
  uint32_t num_inside;
};

// For all kThreads threads of a block, after a barrier; `histogram` is in shared memory.
template <int kThreads>
__device__ BinCut find_bin(const uint32_t* histogram, uint32_t wanted) {
  constexpr uint32_t kBinsPerThread = kBins / kThreads;
  __shared__ uint32_t warp_sums[kThreads / 32];
  __shared__ BinCut found;
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t first = threadIdx.x * kBinsPerThread;
  uint32_t counts[kBinsPerThread], sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < kBinsPerThread; ++i) {
    counts[i] = histogram[first + i];
    sum += counts[i];
  }
  uint32_t before = sum;  // up to this lane, then without it and with the warps before
#pragma unroll
  for (uint32_t step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(~0u, before, step);
    if (lane >= step) before += other;
  }
  if (lane == 31) warp_sums[warp] = before;
  __syncthreads();
  before -= sum;
  for (uint32_t i = 0; i < warp; ++i) before += warp_sums[i];
  const bool is_last = threadIdx.x == kThreads - 1;
  if (before < wanted && (before + sum >= wanted || is_last)) {
    uint32_t i = 0;
#pragma unroll
    for (; i + 1 < kBinsPerThread; ++i) {
      if (before + counts[i] >= wanted) break;
      before += counts[i];
    }
    found = {first + i, before, histogram[first + i]};
  }
  __syncthreads();
  return found;  // the next call writes it behind a barrier of its own
}

__device__ inline void narrow(Cut& cut, const BinCut& found, int remaining_bits) {
  cut.prefix = (cut.prefix << (cut.undecided_bits - remaining_bits)) + found.bin;
  cut.num_better += found.num_before;
  cut.undecided_bits = remaining_bits;
}

// Adds the block's counts to the image's.
__device__ inline void merge_histogram(const uint32_t* counts, uint32_t* total) {
  for (uint32_t bin = threadIdx.x; bin < kBins; bin += blockDim.x) {
    if (counts[bin] > 0) atomicAdd(total + bin, counts[bin]);
  }
}

// Whether this block is the last one of its image to come here; what the others wrote to global
// memory before is then visible.
__device__ inline bool is_last_block(uint32_t* finished_blocks, uint32_t num_blocks) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(finished_blocks, 1u) == num_blocks - 1;
  __syncthreads();
  __threadfence();
  return is_last;
}

}  // namespace effdet
