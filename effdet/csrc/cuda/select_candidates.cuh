// SPDX-License-Identifier: Apache-2.0
// The best (anchor, class) pairs of each image, decoded: device code.
//
// A pair's rank is one integer made of its logit and its flat index: a lower rank is a better pair,
// and no two are equal. So "the C best" is one set, in whatever order threads find its members.
//   count_pairs   counts the ranks by their first 12 bits, and the block that finishes an image
//                 last finds the bin that holds the C-th; further launches look at the next 12 bits
//                 inside that bin, and return at once if it was small enough
//   collect_pairs writes the ranks up to that bin, a few more than C, to a buffer
//   finish_pairs  one block an image: chooses exactly the C best of the buffer, sorts and decodes
// The logits are read twice, in the place and layout in which the heads left them.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>

#include "boxes.cuh"
#include "device.cuh"

namespace effdet {

constexpr int kMaxCandidateLevels = 16;
constexpr int kSelectThreads = 256;
constexpr int kFinishThreads = 1024;
constexpr int kDigitBits = 12;
constexpr uint32_t kBins = 1u << kDigitBits;
constexpr int kVectorsPerThread = 4;
constexpr uint32_t kVectorsPerTile = kSelectThreads * kVectorsPerThread;

// --- number formats ---

// kKeyBits: the upper bits of order_of_float that differ among the numbers of the type.
template <typename scalar_t>
struct Format;

template <>
struct Format<float> {
  static constexpr int kKeyBits = 32;
  __device__ static float load(const float* at) { return *at; }
  __device__ static float unpack(const uint32_t* words, int i) { return __uint_as_float(words[i]); }
};

template <>
struct Format<__half> {
  static constexpr int kKeyBits = 19;
  __device__ static float load(const __half* at) { return __half2float(*at); }
  __device__ static float unpack(const uint32_t* words, int i) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(words[i / 2] >> 16 * (i % 2))));
  }
};

template <>
struct Format<__nv_bfloat16> {
  static constexpr int kKeyBits = 16;
  __device__ static float load(const __nv_bfloat16* at) { return __bfloat162float(*at); }
  __device__ static float unpack(const uint32_t* words, int i) {
    return __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
  }
};

// --- the heads' outputs ---

template <typename scalar_t>
struct CandidateLevel {
  const scalar_t* logits;                // [B, anchors * K, H, W], dense within an image
  const scalar_t* deltas;                // [B, anchors * 4, H, W]
  int64_t logits_stride, deltas_stride;  // elements from one image to the next
  bool logits_channels_last, deltas_channels_last;
  uint32_t area;         // H * W
  uint32_t num_anchors;  // a location
  uint32_t first_pair;   // flat index of the level's first pair
  uint32_t num_pairs;    // pairs of an image on this level
  uint32_t first_tile;   // number of the level's first tile
};

template <typename scalar_t>
struct CandidateLevels {
  CandidateLevel<scalar_t> levels[kMaxCandidateLevels];
  int num_levels;
  uint32_t num_tiles;  // of an image
  uint32_t num_classes;
};

// The level that holds the pair or the tile, whose first one is `member`.
template <typename scalar_t>
__device__ const CandidateLevel<scalar_t>& find_level(const CandidateLevels<scalar_t>& all,
                                                      uint32_t CandidateLevel<scalar_t>::* member,
                                                      uint32_t value) {
  int level = 0;
  // Empty levels begin where the next one does, so the last that fits is the right one.
  while (level + 1 < all.num_levels && all.levels[level + 1].*member <= value) ++level;
  return all.levels[level];
}

// Calls visit(x, position in the image's memory) for the logits of one tile that are at least
// `floor`, which NaN is not.
template <typename scalar_t, typename Visit>
__device__ void visit_tile(const CandidateLevel<scalar_t>& level, uint32_t image, uint32_t tile,
                           float floor, const Visit& visit) {
  constexpr uint32_t kPerVector = 16 / sizeof(scalar_t);
  const scalar_t* logits = level.logits + image * level.logits_stride;
  const uint32_t misaligned = reinterpret_cast<uintptr_t>(logits) % 16 / sizeof(scalar_t);
  const uint32_t head = min((kPerVector - misaligned) % kPerVector, level.num_pairs);
  const uint32_t num_vectors = (level.num_pairs - head) / kPerVector;
  const uint4* vectors = reinterpret_cast<const uint4*>(logits + head);
  const uint32_t first = tile * kVectorsPerTile + threadIdx.x;

  uint4 loaded[kVectorsPerThread];
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; ++i) {
    const uint32_t vector = first + i * kSelectThreads;
    if (vector < num_vectors) loaded[i] = __ldg(vectors + vector);
  }
  uint32_t hits = 0;  // a bit a logit
  static_assert(kVectorsPerThread * kPerVector <= 32, "bits");
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; ++i) {
    if (first + i * kSelectThreads >= num_vectors) continue;
    const uint32_t words[4] = {loaded[i].x, loaded[i].y, loaded[i].z, loaded[i].w};
#pragma unroll
    for (uint32_t j = 0; j < kPerVector; ++j) {
      if (Format<scalar_t>::unpack(words, j) >= floor) hits |= 1u << (i * kPerVector + j);
    }
  }
  for (; hits; hits &= hits - 1) {
    const uint32_t bit = __ffs(hits) - 1;
    const uint32_t vector = first + bit / kPerVector * kSelectThreads;
    const uint32_t position = head + vector * kPerVector + bit % kPerVector;
    visit(Format<scalar_t>::load(logits + position), position);
  }
  // What lies before and behind the vectors goes with the first tile.
  const uint32_t behind = head + num_vectors * kPerVector;
  if (tile > 0 || threadIdx.x >= head + (level.num_pairs - behind)) return;
  const uint32_t position = threadIdx.x < head ? threadIdx.x : behind + (threadIdx.x - head);
  const float x = Format<scalar_t>::load(logits + position);
  if (x >= floor) visit(x, position);
}

// --- ranks ---

// Where a pair stands, from the position of its logit in the image's memory.
struct Pair {
  uint32_t flat;  // anchor * K + class
  uint32_t label;
};

template <typename scalar_t>
__device__ Pair pair_at(const CandidateLevel<scalar_t>& level, uint32_t position,
                        uint32_t num_classes) {
  const uint32_t channels = level.num_anchors * num_classes;
  if (level.logits_channels_last) return {level.first_pair + position, position % num_classes};
  const uint32_t channel = position / level.area, location = position % level.area;
  return {level.first_pair + location * channels + channel, channel % num_classes};
}

// Falls with x.
template <typename scalar_t>
__device__ uint32_t key_of_float(float x) {
  return ~order_of_float(x) >> (32 - Format<scalar_t>::kKeyBits);
}

template <typename scalar_t>
__device__ float float_of_key(uint32_t key) {
  constexpr int kDropped = 32 - Format<scalar_t>::kKeyBits;
  const uint32_t order = ~(key << kDropped);
  // The dropped bits are 0 in the float: in the order so above zero, inverted below.
  return float_of_order(order >> 31 ? order & (~0u << kDropped) : order);
}

// The settings of a call.
struct Selection {
  uint32_t num_candidates;    // C
  uint32_t capacity;          // ranks an image that the buffer holds
  uint32_t sort_size;         // ranks an image that are sorted: a power of 2, C <= it <= capacity
  int index_bits, rank_bits;  // of a flat index; of a rank, which has the key above the index
  float floor;                // logits below it have a score at or below the threshold
  float score_threshold;
  const uint32_t* excluded;  // bit k of the words: class k is never taken; or null
};

__device__ inline bool is_excluded(const Selection& selection, uint32_t label) {
  return selection.excluded && (selection.excluded[label / 32] >> label % 32 & 1);
}

template <typename scalar_t>
__device__ uint64_t rank_of(float x, uint32_t flat, int index_bits) {
  return static_cast<uint64_t>(key_of_float<scalar_t>(x)) << index_bits | flat;
}

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
  const float x = float_of_key<scalar_t>(static_cast<uint32_t>(last_rank >> index_bits));
  return isnan(x) ? -INFINITY : x;  // below all numbers
}

// --- histograms ---

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
  for (uint32_t bin = threadIdx.x; bin < kBins; bin += kSelectThreads) {
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

// --- the kernels ---

// grid: any. Sets up the workspace of a call.
__global__ void __launch_bounds__(kSelectThreads)
    prepare_selection(Cut* cuts, uint32_t* histograms, uint32_t* excluded, uint32_t num_images,
                      uint32_t num_excluded_words, int rank_bits) {
  const uint64_t step = uint64_t{gridDim.x} * kSelectThreads;
  const uint64_t start = uint64_t{blockIdx.x} * kSelectThreads + threadIdx.x;
  const uint64_t num_bins = uint64_t{num_images} * kBins;
  for (uint64_t i = start; i < num_bins; i += step) histograms[i] = 0;
  for (uint64_t i = start; i < num_images; i += step) cuts[i] = first_cut(rank_bits);
  for (uint64_t i = start; i < num_excluded_words; i += step) excluded[i] = 0;
}

constexpr int kExcludedPerLaunch = 256;

struct ExcludedClasses {
  uint32_t labels[kExcludedPerLaunch];
  uint32_t count;
};

// grid: 1.
__global__ void __launch_bounds__(kSelectThreads)
    mark_excluded(const ExcludedClasses classes, uint32_t* excluded) {
  for (uint32_t i = threadIdx.x; i < classes.count; i += kSelectThreads) {
    atomicOr(excluded + classes.labels[i] / 32, 1u << classes.labels[i] % 32);
  }
}

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

// grid: blocks_per_image * B. kFirst: the first 12 bits, of all logits; else the next 12, of the
// logits inside the bin that was found.
template <typename scalar_t, bool kFirst>
__global__ void __launch_bounds__(kSelectThreads)
    count_pairs(const __grid_constant__ CandidateLevels<scalar_t> all, const Selection selection,
                Cut* cuts, uint32_t* histograms, uint32_t blocks_per_image) {
  __shared__ uint32_t counts[kBins];
  const uint32_t image = blockIdx.x / blocks_per_image, block = blockIdx.x % blocks_per_image;
  Cut cut = cuts[image];
  if (!kFirst && cut.done) return;
  const int remaining_bits = bits_after_digit(cut);
  float floor = selection.floor;
  if (!kFirst) {
    floor =
        fmaxf(floor, lowest_logit<scalar_t>(cut.prefix, cut.undecided_bits, selection.index_bits));
  }
  for (uint32_t bin = threadIdx.x; bin < kBins; bin += kSelectThreads) counts[bin] = 0;
  __syncthreads();

  uint32_t num_counted = 0;
  for (uint32_t tile = block; tile < all.num_tiles; tile += blocks_per_image) {
    const auto& level = find_level(all, &CandidateLevel<scalar_t>::first_tile, tile);
    RunningCount running{counts};
    visit_tile(level, image, tile - level.first_tile, floor, [&](float x, uint32_t position) {
      if (kFirst && !selection.excluded) {  // the flat index is not needed
        running.add(key_of_float<scalar_t>(x) >> (Format<scalar_t>::kKeyBits - kDigitBits));
        ++num_counted;
        return;
      }
      const Pair pair = pair_at(level, position, all.num_classes);
      if (is_excluded(selection, pair.label)) return;
      const uint64_t rank = rank_of<scalar_t>(x, pair.flat, selection.index_bits);
      const uint64_t bin = bin_of_rank(cut, remaining_bits, rank);
      if (bin < kBins) running.add(static_cast<uint32_t>(bin));
      ++num_counted;
    });
    running.flush();
    if (!kFirst) continue;
    // Once the block alone has seen C logits above a bin, it need not count those below: the floor
    // rises quickly, and with it the share of logits that cost one comparison and nothing more.
    // Bins at or above the one that holds the C-th are still counted in full.
    if (__syncthreads_or(num_counted > selection.num_candidates / kSelectThreads)) {
      const BinCut found = find_bin<kSelectThreads>(counts, selection.num_candidates);
      if (found.num_before + found.num_inside >= selection.num_candidates) {
        floor =
            fmaxf(floor, lowest_logit<scalar_t>(found.bin, remaining_bits, selection.index_bits));
      }
      num_counted = 0;
    }
  }
  __syncthreads();
  uint32_t* histogram = histograms + size_t{image} * kBins;
  merge_histogram(counts, histogram);
  if (!is_last_block(&cuts[image].finished_blocks, blocks_per_image)) return;

  for (uint32_t bin = threadIdx.x; bin < kBins; bin += kSelectThreads) {
    counts[bin] = __ldcg(histogram + bin);
    histogram[bin] = 0;  // for the next launch
  }
  __syncthreads();
  const uint32_t wanted = selection.num_candidates - cut.num_better;
  const BinCut found = find_bin<kSelectThreads>(counts, wanted);
  narrow(cut, found, remaining_bits);
  cut.done = cut.num_better + found.num_inside <= selection.capacity;
  cut.finished_blocks = 0;
  if (threadIdx.x == 0) cuts[image] = cut;
}

// grid: blocks_per_image * B. Writes the ranks up to the cut to the image's part of `collected`.
template <typename scalar_t>
__global__ void __launch_bounds__(kSelectThreads)
    collect_pairs(const __grid_constant__ CandidateLevels<scalar_t> all, const Selection selection,
                  Cut* cuts, uint64_t* collected, uint32_t blocks_per_image) {
  const uint32_t image = blockIdx.x / blocks_per_image, block = blockIdx.x % blocks_per_image;
  const uint64_t prefix = cuts[image].prefix;
  const int undecided_bits = cuts[image].undecided_bits;
  const float floor =
      fmaxf(selection.floor, lowest_logit<scalar_t>(prefix, undecided_bits, selection.index_bits));
  uint64_t* ranks = collected + size_t{image} * selection.capacity;
  for (uint32_t tile = block; tile < all.num_tiles; tile += blocks_per_image) {
    const auto& level = find_level(all, &CandidateLevel<scalar_t>::first_tile, tile);
    visit_tile(level, image, tile - level.first_tile, floor, [&](float x, uint32_t position) {
      const Pair pair = pair_at(level, position, all.num_classes);
      if (is_excluded(selection, pair.label)) return;
      const uint64_t rank = rank_of<scalar_t>(x, pair.flat, selection.index_bits);
      if (rank >> undecided_bits > prefix) return;
      const uint32_t place = atomicAdd(&cuts[image].num_collected, 1u);
      if (place < selection.capacity) ranks[place] = rank;
    });
  }
}

// --- sorting ---

// Every 16th place is left free, so that threads that read every 8th rank use different banks.
__host__ __device__ inline uint32_t padded(uint32_t i) { return i + i / 16; }

// kSteps steps of a bitonic merge at once, on groups of 2^kSteps ranks that lie 2^low apart.
template <int kSteps>
__device__ void merge_steps(uint64_t* ranks, uint32_t count, int low, int stage) {
  constexpr int kGroup = 1 << kSteps;
  for (uint32_t group = threadIdx.x; group < count >> kSteps; group += kFinishThreads) {
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
// For all threads of a block, after a barrier.
__device__ inline void sort_ranks(uint64_t* ranks, int log_count) {
  const uint32_t count = 1u << log_count;
  for (int stage = 1; stage <= log_count; ++stage) {
    for (int top = stage; top > 0; top -= 3) {
      if (top >= 3) {
        merge_steps<3>(ranks, count, top - 3, stage);
      } else if (top == 2) {
        merge_steps<2>(ranks, count, 0, stage);
      } else {
        merge_steps<1>(ranks, count, 0, stage);
      }
    }
  }
}

// --- the end ---

// Copies the best ranks of `collected`, at least C of them and at most sort_size, in any order.
// Returns how many. For all threads of a block.
__device__ inline uint32_t keep_best(const uint64_t* collected, uint32_t count,
                                     const Selection& selection, uint64_t* ranks) {
  __shared__ uint32_t counts[kBins];
  __shared__ uint32_t num_kept;
  Cut cut = first_cut(selection.rank_bits);
  bool fits = count <= selection.sort_size;
  if (fits) cut.prefix = ~uint64_t{0};
  while (!fits) {
    const int remaining_bits = bits_after_digit(cut);
    for (uint32_t bin = threadIdx.x; bin < kBins; bin += kFinishThreads) counts[bin] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < count; i += kFinishThreads) {
      const uint64_t bin = bin_of_rank(cut, remaining_bits, collected[i]);
      if (bin < kBins) atomicAdd(counts + bin, 1u);
    }
    __syncthreads();
    const uint32_t wanted = selection.num_candidates - cut.num_better;
    const BinCut found = find_bin<kFinishThreads>(counts, wanted);
    narrow(cut, found, remaining_bits);
    fits = cut.num_better + found.num_inside <= selection.sort_size;
  }
  if (threadIdx.x == 0) num_kept = 0;
  __syncthreads();
  const int shift = min(cut.undecided_bits, 63);
  for (uint32_t i = threadIdx.x; i < count; i += kFinishThreads) {
    if (collected[i] >> shift <= cut.prefix) ranks[padded(atomicAdd(&num_kept, 1u))] = collected[i];
  }
  __syncthreads();
  return num_kept;
}

struct CandidateOutputs {
  Box* boxes;             // [B, C]
  float* scores;          // [B, C]
  int64_t* labels;        // [B, C]
  int64_t* anchor_index;  // [B, C]
};

// tw and th are cut here: MAX_LOG_RATIO of effdet/ops/select_candidates.py.
constexpr float kMaxLogRatio = 30;

// effdet.boxes.decode_boxes for one coordinate of the centre; exp is the only inexact step.
__device__ inline void decode_axis(float offset, float log_ratio, float low, float high,
                                   float& decoded_low, float& decoded_high) {
  const float size = __fsub_rn(high, low);
  const float centre = __fadd_rn(__fmul_rn(offset, size), __fmul_rn(__fadd_rn(low, high), 0.5f));
  // Not fminf, which would lose a NaN.
  const float limited = log_ratio > kMaxLogRatio ? kMaxLogRatio : log_ratio;
  const float half = __fmul_rn(__fmul_rn(expf(limited), size), 0.5f);
  decoded_low = __fsub_rn(centre, half);
  decoded_high = __fadd_rn(centre, half);
}

template <typename scalar_t>
__device__ Box decode_pair(const CandidateLevel<scalar_t>& level, uint32_t image, uint32_t location,
                           uint32_t anchor_here, const Box& anchor) {
  const uint32_t first = anchor_here * 4;
  const bool last = level.deltas_channels_last;
  const size_t step = last ? 1 : level.area;
  const size_t start = last ? size_t{location} * level.num_anchors * 4 + first
                            : size_t{first} * level.area + location;
  const scalar_t* deltas = level.deltas + image * level.deltas_stride + start;
  const float tx = Format<scalar_t>::load(deltas);
  const float ty = Format<scalar_t>::load(deltas + step);
  const float tw = Format<scalar_t>::load(deltas + 2 * step);
  const float th = Format<scalar_t>::load(deltas + 3 * step);
  Box box;
  decode_axis(tx, tw, anchor.x1, anchor.x2, box.x1, box.x2);
  decode_axis(ty, th, anchor.y1, anchor.y2, box.y1, box.y2);
  return box;
}

__device__ inline bool is_finite(const Box& box) {
  return isfinite(box.x1) && isfinite(box.y1) && isfinite(box.x2) && isfinite(box.y2);
}

template <typename scalar_t>
__device__ void write_candidate(const CandidateLevels<scalar_t>& all, const Box* anchors,
                                const Selection& selection, uint32_t image, uint64_t rank,
                                const CandidateOutputs& out, size_t place) {
  const uint32_t flat = static_cast<uint32_t>(rank & ((uint64_t{1} << selection.index_bits) - 1));
  const float x = float_of_key<scalar_t>(static_cast<uint32_t>(rank >> selection.index_bits));
  const float score = __fdiv_rn(1.f, __fadd_rn(1.f, expf(-x)));
  if (!(score > selection.score_threshold)) return;
  const auto& level = find_level(all, &CandidateLevel<scalar_t>::first_pair, flat);
  const uint32_t anchor = flat / all.num_classes, label = flat % all.num_classes;
  const uint32_t in_level = anchor - level.first_pair / all.num_classes;
  const Box box = decode_pair(level, image, in_level / level.num_anchors,
                              in_level % level.num_anchors, anchors[anchor]);
  if (!is_finite(box)) return;
  out.boxes[place] = box;
  out.scores[place] = score;
  out.labels[place] = label;
  out.anchor_index[place] = anchor;
}

// grid: B. The ranks are sorted in dynamic shared memory, or in `workspace` if that is not null:
// padded(sort_size) of them an image.
template <typename scalar_t>
__global__ void __launch_bounds__(kFinishThreads)
    finish_pairs(const __grid_constant__ CandidateLevels<scalar_t> all, const Selection selection,
                 const Cut* cuts, const uint64_t* collected, uint64_t* workspace,
                 const Box* anchors, const CandidateOutputs out) {
  const uint32_t image = blockIdx.x;
  uint64_t* ranks = workspace ? workspace + size_t{image} * padded(selection.sort_size)
                              : dynamic_shared_memory<uint64_t>();
  const uint32_t num_collected = min(cuts[image].num_collected, selection.capacity);
  const uint32_t num_kept =
      keep_best(collected + size_t{image} * selection.capacity, num_collected, selection, ranks);
  int log_count = 0;
  while (1u << log_count < num_kept) ++log_count;
  for (uint32_t i = num_kept + threadIdx.x; i < 1u << log_count; i += kFinishThreads) {
    ranks[padded(i)] = ~uint64_t{0};
  }
  __syncthreads();
  sort_ranks(ranks, log_count);
  for (uint32_t i = threadIdx.x; i < selection.num_candidates; i += kFinishThreads) {
    const size_t place = size_t{image} * selection.num_candidates + i;
    out.boxes[place] = {0, 0, 0, 0};
    out.scores[place] = -1;
    out.labels[place] = 0;
    out.anchor_index[place] = 0;
    if (i < num_kept) {
      write_candidate(all, anchors, selection, image, ranks[padded(i)], out, place);
    }
  }
}

// --- a call ---

// Fills in what follows from area and num_anchors of the levels. Returns the pairs of an image.
template <typename scalar_t>
uint64_t number_levels(CandidateLevels<scalar_t>& all) {
  constexpr uint64_t kLogitsPerTile = kVectorsPerTile * 16 / sizeof(scalar_t);
  uint64_t num_pairs = 0;
  all.num_tiles = 0;
  for (int i = 0; i < all.num_levels; ++i) {
    CandidateLevel<scalar_t>& level = all.levels[i];
    const uint64_t here = uint64_t{level.area} * level.num_anchors * all.num_classes;
    level.first_pair = static_cast<uint32_t>(num_pairs);
    level.num_pairs = static_cast<uint32_t>(here);
    level.first_tile = all.num_tiles;
    all.num_tiles += static_cast<uint32_t>((here + kLogitsPerTile - 1) / kLogitsPerTile);
    num_pairs += here;
  }
  return num_pairs;
}

// A logit below which every sigmoid is at or below the threshold in [0, 1], however it is rounded.
inline float logit_below(double score_threshold) {
  if (score_threshold < 1e-37) return -104;  // exp(104) is beyond float32
  const double lower = score_threshold * (1 - 1e-5);
  return static_cast<float>(std::log(lower / (1 - lower)) - 1e-5);
}

// `excluded` is left null.
template <typename scalar_t>
Selection plan_selection(uint64_t num_pairs, uint32_t num_candidates, double score_threshold) {
  Selection selection{};
  selection.num_candidates = num_candidates;
  selection.sort_size = 1;
  while (selection.sort_size < num_candidates) selection.sort_size *= 2;
  // Room for more than C: then the first 12 bits nearly always tell enough.
  const uint64_t capacity = std::max<uint64_t>(4 * uint64_t{selection.sort_size}, 16384);
  selection.capacity =
      static_cast<uint32_t>(std::max<uint64_t>(std::min(capacity, num_pairs), selection.sort_size));
  while ((num_pairs - 1) >> selection.index_bits) ++selection.index_bits;
  selection.rank_bits = Format<scalar_t>::kKeyBits + selection.index_bits;
  selection.floor = logit_below(score_threshold);
  selection.score_threshold = static_cast<float>(score_threshold);
  return selection;
}

struct SelectionWorkspace {
  Cut* cuts;             // [B]
  uint32_t* histograms;  // [B, kBins]
  uint32_t* excluded;    // [ceil(K / 32)], or null where no class is excluded
  uint64_t* collected;   // [B, capacity]
  uint64_t* sorted;      // [B, padded(sort_size)], or null where the ranks fit shared memory
};

inline size_t sort_bytes(const Selection& selection) {
  return size_t{padded(selection.sort_size)} * sizeof(uint64_t);
}

// Blocks of a launch over all images, eight for each multiprocessor of a large GPU.
constexpr uint32_t kSelectBlocks = 8 * 132;

// All launches; there is at least one image and one pair.
template <typename scalar_t, typename Launch>
void launch_selection(const Launch& launch, const CandidateLevels<scalar_t>& all,
                      Selection selection, const SelectionWorkspace& workspace, uint32_t num_images,
                      const int64_t* exclude, size_t num_excluded, const Box* anchors,
                      const CandidateOutputs& out, uint32_t max_blocks = kSelectBlocks) {
  const uint32_t num_words = workspace.excluded ? (all.num_classes + 31) / 32 : 0;
  launch(std::min(num_images * (kBins / kSelectThreads), max_blocks), kSelectThreads, 0,
         prepare_selection, workspace.cuts, workspace.histograms, workspace.excluded, num_images,
         num_words, selection.rank_bits);
  for (size_t first = 0; first < num_excluded; first += kExcludedPerLaunch) {
    ExcludedClasses classes{};
    for (size_t i = first; i < num_excluded && classes.count < kExcludedPerLaunch; ++i) {
      classes.labels[classes.count++] = static_cast<uint32_t>(exclude[i]);
    }
    launch(1, kSelectThreads, 0, mark_excluded, classes, workspace.excluded);
  }
  selection.excluded = workspace.excluded;

  const uint32_t blocks_per_image =
      std::min((max_blocks + num_images - 1) / num_images, all.num_tiles);
  const uint32_t blocks = blocks_per_image * num_images;
  launch(blocks, kSelectThreads, 0, count_pairs<scalar_t, true>, all, selection, workspace.cuts,
         workspace.histograms, blocks_per_image);
  for (int bits = kDigitBits; bits < selection.rank_bits; bits += kDigitBits) {
    launch(blocks, kSelectThreads, 0, count_pairs<scalar_t, false>, all, selection, workspace.cuts,
           workspace.histograms, blocks_per_image);
  }
  launch(blocks, kSelectThreads, 0, collect_pairs<scalar_t>, all, selection, workspace.cuts,
         workspace.collected, blocks_per_image);
  launch(num_images, kFinishThreads, workspace.sorted ? 0 : sort_bytes(selection),
         finish_pairs<scalar_t>, all, selection, workspace.cuts, workspace.collected,
         workspace.sorted, anchors, out);
}

}  // namespace effdet
