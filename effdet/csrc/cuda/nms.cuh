// SPDX-License-Identifier: Apache-2.0
// Non-maximum suppression, one block an image: device code.
//
// Thread t owns the candidates t, t + 1024, ... and keeps their scores in registers. In a round the
// block agrees on the best remaining candidate (one barrier), and every thread lowers the scores of
// those it owns that overlap it. Only candidates of the same class look at their boxes.
#pragma once
#include <cmath>

#include "../common/codes.h"
#include "boxes.cuh"
#include "device.cuh"

namespace effdet {

constexpr uint32_t kNmsThreads = 1024;

enum class NmsMethod : int { hard, linear, gaussian };

struct NmsArguments {
  const Box* boxes;       // [B, C]
  const float* scores;    // [B, C]
  const int64_t* labels;  // [B, C]
  int64_t* picks;         // [B, D]
  float* pick_scores;     // [B, D]
  int64_t* counts;        // [B]
  // Workspace [B, C] where the candidates are too many for registers, else null.
  float* remaining;
  uint32_t* class_picks;
  uint32_t num_candidates, num_picks;  // C, D
  NmsMethod method;
  float iou_threshold;     // rounded down, so that comparing with it equals comparing in double
  float sigma;             // above 0
  float score_threshold;   // at least 0
  uint32_t max_per_class;  // picks; the largest integer for no limit
  bool class_agnostic;
  bool boxes_in_shared;  // there is dynamic shared memory for C boxes
};

// The candidates of one thread: what is left of their scores (0: out of the running), their labels
// and how often these have been picked.
template <int kSlots>
struct Slots {
  float remaining[kSlots];
  int64_t labels[kSlots];
  uint32_t class_picks[kSlots];

  __device__ Slots(const NmsArguments&, size_t) {}
  __device__ static constexpr uint32_t size() { return kSlots; }
  __device__ float& score(uint32_t slot) { return remaining[slot]; }
  __device__ uint32_t& num_class_picks(uint32_t slot) { return class_picks[slot]; }
  __device__ int64_t label(uint32_t slot) const { return labels[slot]; }
  __device__ void set_label(uint32_t slot, int64_t label) { labels[slot] = label; }
};

// Any number of them, in global memory.
template <>
struct Slots<0> {
  float* remaining;
  const int64_t* labels;
  uint32_t* class_picks;
  uint32_t num_slots;

  __device__ Slots(const NmsArguments& args, size_t first)
      : remaining(args.remaining + first + threadIdx.x),
        labels(args.labels + first + threadIdx.x),
        class_picks(args.class_picks + first + threadIdx.x),
        num_slots(threadIdx.x < args.num_candidates
                      ? (args.num_candidates - threadIdx.x - 1) / kNmsThreads + 1
                      : 0) {}
  __device__ uint32_t size() const { return num_slots; }
  __device__ float& score(uint32_t slot) { return remaining[size_t{slot} * kNmsThreads]; }
  __device__ uint32_t& num_class_picks(uint32_t slot) {
    return class_picks[size_t{slot} * kNmsThreads];
  }
  __device__ int64_t label(uint32_t slot) const { return labels[size_t{slot} * kNmsThreads]; }
  __device__ void set_label(uint32_t, int64_t) {}
};

struct BestCandidate {
  uint32_t score_bits;  // of a score above 0, so larger bits are a larger score; 0: none is left
  uint32_t index;
  int64_t label;
};

// The thread's best candidate, the first one of equal ones.
template <int kSlots>
__device__ BestCandidate best_slot(Slots<kSlots>& slots) {
  BestCandidate best{0, threadIdx.x, 0};
#pragma unroll
  for (uint32_t slot = 0; slot < slots.size(); ++slot) {
    const uint32_t bits = __float_as_uint(slots.score(slot));
    if (bits > best.score_bits) best = {bits, slot * kNmsThreads + threadIdx.x, slots.label(slot)};
  }
  return best;
}

// The lane with the best of the warp's candidates, the lowest index among equal scores. Indices
// differ among lanes.
__device__ inline uint32_t best_lane(uint32_t score_bits, uint32_t index) {
  const uint32_t most = warp_max(score_bits);
  const uint32_t lowest = ~warp_max(score_bits == most ? ~index : 0);
  return __ffs(__ballot_sync(~0u, score_bits == most && index == lowest)) - 1;
}

// The best of the block. `warp_bests` is one of two buffers that calls take in turn: then one
// barrier a call is enough.
__device__ inline BestCandidate best_of_block(const BestCandidate& own, BestCandidate* warp_bests) {
  const uint32_t lane = threadIdx.x % 32;
  if (lane == best_lane(own.score_bits, own.index)) warp_bests[threadIdx.x / 32] = own;
  __syncthreads();
  static_assert(kNmsThreads == 32 * 32, "one lane a warp");
  return warp_bests[best_lane(warp_bests[lane].score_bits, warp_bests[lane].index)];
}

// 0 for a score that is out of the running.
__device__ inline float if_above(float score, float threshold) {
  return score > threshold ? score : 0.f;
}

// What is left of a score next to a picked box.
__device__ inline float decayed(float score, const Box& box, const Box& picked, float picked_area,
                                const NmsArguments& args) {
  const float intersection = box_intersection(box, picked);
  if (!(intersection > 0)) return score;
  const float whole = box_union(picked_area, box_area(box), intersection);
  const float iou = __fdiv_rn(intersection, whole);
  if (args.method == NmsMethod::gaussian) {
    const float square = __fmul_rn(iou, iou);
    // An IoU of 0, or of NaN, costs nothing, whatever sigma is.
    return square > 0 ? __fmul_rn(score, expf(__fdiv_rn(square, -args.sigma))) : score;
  }
  if (!(iou > args.iou_threshold)) return score;
  return args.method == NmsMethod::hard ? 0.f : __fmul_rn(score, __fsub_rn(1.f, iou));
}

// grid: B.
template <int kSlots>
__global__ void __launch_bounds__(kNmsThreads) suppress(const NmsArguments args) {
  __shared__ BestCandidate warp_bests[2][32];
  const size_t first = size_t{blockIdx.x} * args.num_candidates;
  const Box* boxes = args.boxes + first;
  if (args.boxes_in_shared) {
    Box* copy = dynamic_shared_memory<Box>();
    for (uint32_t i = threadIdx.x; i < args.num_candidates; i += kNmsThreads) copy[i] = boxes[i];
    boxes = copy;
  }
  Slots<kSlots> slots(args, first);
#pragma unroll
  for (uint32_t slot = 0; slot < slots.size(); ++slot) {
    const uint32_t index = slot * kNmsThreads + threadIdx.x;
    const bool inside = index < args.num_candidates;
    slots.score(slot) = inside ? if_above(args.scores[first + index], args.score_threshold) : 0.f;
    slots.set_label(slot, inside ? args.labels[first + index] : 0);
    slots.num_class_picks(slot) = 0;
  }
  BestCandidate own = best_slot(slots);

  uint32_t round = 0;
  for (; round < args.num_picks; ++round) {
    const BestCandidate pick = best_of_block(own, warp_bests[round % 2]);
    if (pick.score_bits == 0) break;
    if (threadIdx.x == 0) {
      const size_t place = size_t{blockIdx.x} * args.num_picks + round;
      args.picks[place] = pick.index;
      args.pick_scores[place] = __uint_as_float(pick.score_bits);
    }
    if (own.score_bits == 0) continue;  // all candidates of this thread are out
    const Box picked = boxes[pick.index];
    const float picked_area = box_area(picked);
    bool changed = false;
#pragma unroll
    for (uint32_t slot = 0; slot < slots.size(); ++slot) {
      const bool same_class = slots.label(slot) == pick.label;
      if (!same_class && !args.class_agnostic) continue;
      const float score = slots.score(slot);
      if (score == 0) continue;
      const uint32_t index = slot * kNmsThreads + threadIdx.x;
      float left = decayed(score, boxes[index], picked, picked_area, args);
      if (same_class && ++slots.num_class_picks(slot) >= args.max_per_class) left = 0;
      if (index == pick.index) left = 0;
      slots.score(slot) = if_above(left, args.score_threshold);
      changed = true;
    }
    if (changed) own = best_slot(slots);
  }

  for (uint32_t i = round + threadIdx.x; i < args.num_picks; i += kNmsThreads) {
    args.picks[size_t{blockIdx.x} * args.num_picks + i] = 0;
    args.pick_scores[size_t{blockIdx.x} * args.num_picks + i] = kRemoved;
  }
  if (threadIdx.x == 0) args.counts[blockIdx.x] = round;
}

// For x float32, x > threshold in double is x > this in float32.
inline float largest_float_up_to(double threshold) {
  const float nearest = static_cast<float>(threshold);
  return nearest > threshold ? std::nextafter(nearest, -INFINITY) : nearest;
}

// 0 stands for no limit.
inline uint32_t limit_per_class(int64_t max_per_class) {
  const bool limited = max_per_class > 0 && max_per_class < UINT32_MAX;
  return limited ? static_cast<uint32_t>(max_per_class) : UINT32_MAX;
}

constexpr uint32_t kMaxCandidatesInRegisters = 8 * kNmsThreads;

using NmsKernel = void (*)(NmsArguments);

inline NmsKernel nms_kernel(uint32_t num_candidates) {
  const uint32_t slots = (num_candidates + kNmsThreads - 1) / kNmsThreads;
  return slots <= 1   ? suppress<1>
         : slots <= 2 ? suppress<2>
         : slots <= 5 ? suppress<5>
         : slots <= 8 ? suppress<8>
                      : suppress<0>;
}

// The one launch; there is at least one image and one pick. Boxes are copied to shared memory where
// they fit.
template <typename Launch>
void launch_suppression(const Launch& launch, NmsArguments args, uint32_t num_images) {
  const NmsKernel kernel = nms_kernel(args.num_candidates);
  const size_t bytes = sizeof(Box) * args.num_candidates;
  args.boxes_in_shared = bytes <= launch.max_dynamic_bytes(kernel);
  launch(num_images, kNmsThreads, args.boxes_in_shared ? bytes : 0, kernel, args);
}

}  // namespace effdet
