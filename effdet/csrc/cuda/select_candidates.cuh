// SPDX-License-Identifier: Apache-2.0
// The best (anchor, class) pairs of each image, decoded: device code.
//
// No two pairs have the same rank (rank.cuh), so "the C best" is one set, in whatever order threads
// find its members.
//   count_pairs   counts the ranks by their first 12 bits, and the block that finishes an image
//                 last finds the bin that holds the C-th; further launches look at the next 12 bits
//                 inside that bin, and return at once if it was small enough
//   collect_pairs writes the ranks up to that bin, a few more than C, to a buffer
//   finish_pairs  one block an image: chooses exactly the C best of the buffer, sorts and decodes
// The logits are read twice, in the place and layout in which the heads left them.
#pragma once
#include <algorithm>
#include <cmath>

#include "bitonic_sort.cuh"
#include "candidate_levels.cuh"
#include "decode.cuh"
#include "radix_select.cuh"

namespace effdet {

constexpr int kFinishThreads = 1024;

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

// grid: blocks_per_image * B. kFirst: the first 12 bits, of all logits; else the next 12, of the
// logits inside the bin that was found.
template <typename scalar_t, bool kFirst>
__global__ void __launch_bounds__(kSelectThreads)
    count_pairs(const __grid_constant__ CandidateLevels all, const Selection selection, Cut* cuts,
                uint32_t* histograms, uint32_t blocks_per_image) {
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
    const auto& level = find_level(all.level, all.count, &CandidateLevel::first_tile, tile);
    RunningCount running{counts};
    visit_tile<scalar_t>(
        level, image, tile - level.first_tile, floor, [&](float x, uint32_t position) {
          if (kFirst && !selection.excluded) {  // the flat index is not needed
            running.add(key_of_float<scalar_t>(x) >> (kKeyBits<scalar_t> - kDigitBits));
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
    collect_pairs(const __grid_constant__ CandidateLevels all, const Selection selection, Cut* cuts,
                  uint64_t* collected, uint32_t blocks_per_image) {
  const uint32_t image = blockIdx.x / blocks_per_image, block = blockIdx.x % blocks_per_image;
  const uint64_t prefix = cuts[image].prefix;
  const int undecided_bits = cuts[image].undecided_bits;
  const float floor =
      fmaxf(selection.floor, lowest_logit<scalar_t>(prefix, undecided_bits, selection.index_bits));
  uint64_t* ranks = collected + size_t{image} * selection.capacity;
  for (uint32_t tile = block; tile < all.num_tiles; tile += blocks_per_image) {
    const auto& level = find_level(all.level, all.count, &CandidateLevel::first_tile, tile);
    visit_tile<scalar_t>(
        level, image, tile - level.first_tile, floor, [&](float x, uint32_t position) {
          const Pair pair = pair_at(level, position, all.num_classes);
          if (is_excluded(selection, pair.label)) return;
          const uint64_t rank = rank_of<scalar_t>(x, pair.flat, selection.index_bits);
          if (rank >> undecided_bits > prefix) return;
          const uint32_t place = atomicAdd(&cuts[image].num_collected, 1u);
          if (place < selection.capacity) ranks[place] = rank;
        });
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

template <typename scalar_t>
__device__ void write_candidate(const CandidateLevels& all, const Box* anchors,
                                const Selection& selection, uint32_t image, uint64_t rank,
                                const CandidateOutputs& out, size_t place) {
  const uint32_t flat = index_of_rank(rank, selection.index_bits);
  const float x = logit_of_rank<scalar_t>(rank, selection.index_bits);
  const float score = __fdiv_rn(1.f, __fadd_rn(1.f, expf(-x)));
  if (!(score > selection.score_threshold)) return;
  const auto& level = find_level(all.level, all.count, &CandidateLevel::first_pair, flat);
  const uint32_t anchor = flat / all.num_classes, label = flat % all.num_classes;
  const uint32_t in_level = anchor - static_cast<uint32_t>(level.first_anchor);
  const Box box = decode_anchor<scalar_t>(level, image, in_level, anchors[anchor]);
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
    finish_pairs(const __grid_constant__ CandidateLevels all, const Selection selection,
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
  sort_ranks<kFinishThreads>(ranks, log_count);
  for (uint32_t i = threadIdx.x; i < selection.num_candidates; i += kFinishThreads) {
    const size_t place = size_t{image} * selection.num_candidates + i;
    out.boxes[place] = {0, 0, 0, 0};
    out.scores[place] = kRemoved;
    out.labels[place] = 0;
    out.anchor_index[place] = 0;
    if (i < num_kept) {
      write_candidate<scalar_t>(all, anchors, selection, image, ranks[padded(i)], out, place);
    }
  }
}

// --- a call ---

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
  selection.rank_bits = kKeyBits<scalar_t> + selection.index_bits;
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

// Whether the ranks are sorted in shared memory, without SelectionWorkspace::sorted.
template <typename scalar_t, typename Launch>
bool sorts_in_shared(const Launch& launch, const Selection& selection) {
  return sort_bytes(selection) <= launch.max_dynamic_bytes(finish_pairs<scalar_t>);
}

// All launches; there is at least one image and one pair.
template <typename scalar_t, typename Launch>
void launch_selection(const Launch& launch, const CandidateLevels& all, Selection selection,
                      const SelectionWorkspace& workspace, uint32_t num_images,
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
