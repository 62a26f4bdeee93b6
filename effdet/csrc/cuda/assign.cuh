// SPDX-License-Identifier: Apache-2.0
// Matching of anchors and boxes without the matrix of their overlaps: device code.
//
// The first kernel gives a thread to every anchor and passes the boxes of the image through shared
// memory, so each anchor keeps its best box in registers. The best anchor of every box is the
// maximum of (IoU, lowest anchor) as one 64-bit integer: a maximum does not depend on the order in
// which it is taken. The second kernel gives every box its best anchor.
#pragma once
#include "../common/codes.h"
#include "boxes.cuh"
#include "device.cuh"

namespace effdet {

constexpr int kAssignThreads = 256;
constexpr int kBoxesInShared = 128;

struct AssignArguments {
  const Box* anchors;     // [A]
  const Box* boxes;       // [B, M]
  const int64_t* labels;  // [B, M]
  int32_t* matched;       // [B, A]
  int32_t* cls_targets;   // [B, A]
  float* num_foreground;  // []
  // Workspace, 0 at the start.
  unsigned long long* best_anchor;  // [B, M], as packed by best_anchor_key
  unsigned long long* foreground;   // []
  unsigned* finished_images;        // []
  uint32_t num_images, num_anchors, num_boxes;
  float foreground_iou, crowd_overlap;
};

enum class Role : int32_t { filler, object, crowd };

// What a row of `boxes` is for. A crowd with a NaN lies on no anchor.
__device__ inline Role role_of_box(const Box& box, int64_t label) {
  if (label == kBackground) return Role::filler;
  if (label != kIgnore) return Role::object;
  const bool is_nan = isnan(box.x1) || isnan(box.y1) || isnan(box.x2) || isnan(box.y2);
  return is_nan ? Role::filler : Role::crowd;
}

__device__ inline bool is_object(int64_t label) { return label != kBackground && label != kIgnore; }

// Larger for a larger IoU (not negative) and, among equals, for a lower anchor. 0 is no overlap.
__device__ inline unsigned long long best_anchor_key(uint32_t iou_bits, uint32_t anchor) {
  return static_cast<unsigned long long>(iou_bits) << 32 | ~anchor;
}

// A box that overlaps nothing has its best IoU, 0, with the first anchor.
__device__ inline uint32_t anchor_of_key(unsigned long long key) {
  return key == 0 ? 0 : ~static_cast<uint32_t>(key);
}

__device__ inline float overlap_of_boxes(float intersection, float area_a, float area_b) {
  const float whole = box_union(area_a, area_b, intersection);
  return intersection > 0 && whole > 0 ? __fdiv_rn(intersection, whole) : 0.f;
}

__device__ inline bool lies_on_crowd(float intersection, float area, float crowd_overlap) {
  return intersection > 0 && area > 0 && __fdiv_rn(intersection, area) >= crowd_overlap;
}

// The warp's best anchor for one box, if any of its anchors overlaps the box.
__device__ inline void offer_to_box(unsigned long long* best, float iou, uint32_t anchor) {
  if (!__any_sync(~0u, iou > 0)) return;
  const uint32_t bits = __float_as_uint(iou), most = warp_max(bits);
  const unsigned lanes = __ballot_sync(~0u, bits == most);
  // Lanes hold rising anchors.
  if (threadIdx.x % 32 == __ffs(lanes) - 1u) atomicMax(best, best_anchor_key(bits, anchor));
}

// grid: blocks_per_image * B.
__global__ void __launch_bounds__(kAssignThreads)
    match_anchors(const AssignArguments args, uint32_t blocks_per_image) {
  __shared__ Box boxes[kBoxesInShared];
  __shared__ float areas[kBoxesInShared];
  __shared__ Role roles[kBoxesInShared];
  __shared__ unsigned long long best_anchor[kBoxesInShared];

  const size_t image = blockIdx.x / blocks_per_image;
  const uint32_t anchor = blockIdx.x % blocks_per_image * kAssignThreads + threadIdx.x;
  const bool inside = anchor < args.num_anchors;
  const Box own = inside ? args.anchors[anchor] : Box{0, 0, 0, 0};
  const float own_area = box_area(own);

  float best_iou = 0;
  uint32_t best_box = 0;
  bool on_crowd = false;
  for (uint32_t first = 0; first < args.num_boxes; first += kBoxesInShared) {
    const uint32_t count = min(args.num_boxes - first, static_cast<uint32_t>(kBoxesInShared));
    const size_t start = image * args.num_boxes + first;
    for (uint32_t i = threadIdx.x; i < count; i += kAssignThreads) {
      boxes[i] = args.boxes[start + i];
      areas[i] = box_area(boxes[i]);
      roles[i] = role_of_box(boxes[i], args.labels[start + i]);
      best_anchor[i] = 0;
    }
    __syncthreads();
    for (uint32_t i = 0; i < count; ++i) {
      const Role role = roles[i];
      if (role == Role::filler) continue;
      const float intersection = box_intersection(boxes[i], own);
      if (role == Role::crowd) {
        on_crowd |= lies_on_crowd(intersection, own_area, args.crowd_overlap);
        continue;
      }
      const float iou = inside ? overlap_of_boxes(intersection, areas[i], own_area) : 0.f;
      if (iou > best_iou) {
        best_iou = iou;
        best_box = first + i;
      }
      offer_to_box(&best_anchor[i], iou, anchor);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < count; i += kAssignThreads) {
      if (best_anchor[i] > 0) atomicMax(args.best_anchor + start + i, best_anchor[i]);
    }
    // The next round's threads write where this one's have only read their own values.
  }

  const bool foreground = best_iou > 0 && best_iou >= args.foreground_iou;
  if (inside) {
    int32_t box = on_crowd ? kIgnore : kBackground, label = box;
    if (foreground) {
      box = static_cast<int32_t>(best_box);
      label = static_cast<int32_t>(args.labels[image * args.num_boxes + best_box]);
    }
    args.matched[image * args.num_anchors + anchor] = box;
    args.cls_targets[image * args.num_anchors + anchor] = label;
  }
  const int foreground_in_block = __syncthreads_count(foreground);
  if (threadIdx.x == 0 && foreground_in_block > 0) {
    atomicAdd(args.foreground, static_cast<unsigned long long>(foreground_in_block));
  }
}

// grid: B. Every box takes its best anchor; where several want the same, the first one does.
__global__ void __launch_bounds__(kAssignThreads) force_matches(const AssignArguments args) {
  const size_t image = blockIdx.x;
  const unsigned long long* best = args.best_anchor + image * args.num_boxes;
  const int64_t* labels = args.labels + image * args.num_boxes;
  int32_t* matched = args.matched + image * args.num_anchors;
  int32_t* cls_targets = args.cls_targets + image * args.num_anchors;

  unsigned new_foreground = 0;
  for (uint32_t box = threadIdx.x; box < args.num_boxes; box += kAssignThreads) {
    if (!is_object(labels[box])) continue;
    const uint32_t anchor = anchor_of_key(best[box]);
    bool first = true;
    for (uint32_t other = 0; other < box && first; ++other) {
      first = !is_object(labels[other]) || anchor_of_key(best[other]) != anchor;
    }
    if (!first) continue;
    new_foreground += matched[anchor] < 0;
    matched[anchor] = static_cast<int32_t>(box);
    cls_targets[anchor] = static_cast<int32_t>(labels[box]);
  }
  if (new_foreground > 0) {
    atomicAdd(args.foreground, static_cast<unsigned long long>(new_foreground));
  }
  __threadfence();
  __syncthreads();
  // The image that finishes last turns the count into the result.
  if (threadIdx.x == 0 && atomicAdd(args.finished_images, 1u) == args.num_images - 1) {
    *args.num_foreground = static_cast<float>(atomicAdd(args.foreground, 0ull));
  }
}

// Both kernels; there is at least one image and one anchor. `workspace`: B * M + 2 zeros.
template <typename Launch>
void launch_assignment(const Launch& launch, AssignArguments args, unsigned long long* workspace) {
  args.foreground = workspace;
  args.finished_images = reinterpret_cast<unsigned*>(workspace + 1);
  args.best_anchor = workspace + 2;
  const uint32_t blocks_per_image = (args.num_anchors + kAssignThreads - 1) / kAssignThreads;
  launch(blocks_per_image * args.num_images, kAssignThreads, 0, match_anchors, args,
         blocks_per_image);
  launch(args.num_images, kAssignThreads, 0, force_matches, args);
}

}  // namespace effdet
