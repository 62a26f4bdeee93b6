// SPDX-License-Identifier: Apache-2.0
// Inner loops of the target assignment. The order of operations is that of effdet/boxes.py, so
// that every IoU has the same bits.
#pragma once
#include "../common/codes.h"
#include "assign.h"
#include "simd_math.h"

namespace effdet::EFFDET_ISA {

void fill_anchor_block(const float* anchors, int count, AnchorBlock& block,
                       const BlockBounds& bounds, int64_t index) {
  const float infinity = __builtin_inff(), nan = __builtin_nanf("");
  for (int i = 0; i < count; ++i) {
    block.x1[i] = anchors[4 * i];
    block.y1[i] = anchors[4 * i + 1];
    block.x2[i] = anchors[4 * i + 2];
    block.y2[i] = anchors[4 * i + 3];
  }
  for (int i = count; i < kAnchorBlock; ++i)
    block.x1[i] = block.y1[i] = block.x2[i] = block.y2[i] = nan;
  float x1 = infinity, y1 = infinity, x2 = -infinity, y2 = -infinity;
  float least = infinity, greatest = -infinity;
  // A NaN loses every comparison: minimum(NaN, b) and maximum(NaN, b) are b.
#pragma omp simd reduction(min : x1, y1, least) reduction(max : x2, y2, greatest)
  for (int i = 0; i < kAnchorBlock; ++i) {
    const float area = (block.x2[i] - block.x1[i]) * (block.y2[i] - block.y1[i]);
    block.area[i] = area;
    x1 = minimum(block.x1[i], x1);
    y1 = minimum(block.y1[i], y1);
    x2 = maximum(block.x2[i], x2);
    y2 = maximum(block.y2[i], y2);
    least = minimum(area, least);
    greatest = maximum(area, greatest);
  }
  bounds.x1[index] = x1;
  bounds.y1[index] = y1;
  bounds.x2[index] = x2;
  bounds.y2[index] = y2;
  bounds.least_area[index] = least;
  bounds.greatest_area[index] = greatest;
}

EFFDET_INLINE float shared_area(float x1, float y1, float x2, float y2, const AssignBox& box) {
  const float width = maximum(minimum(x2, box.x2) - maximum(x1, box.x1), 0.f);
  const float height = maximum(minimum(y2, box.y2) - maximum(y1, box.y1), 0.f);
  return width * height;
}

// An anchor of area a shares at most s = min(area shared with the rectangle, greatest area) with
// the box, and a >= s' for what it shares; so IoU = s' / (box + a - s') is greatest for s' = s and
// a = max(least area, s). The margin is wider than all rounding, also of subnormal numbers.
float bound_ious(const BlockBounds& blocks, int64_t num_blocks, const AssignBox& box,
                 float* bounds) {
  // In variables of their own: a pointer that is read again in each round stops the vectoriser.
  const float *x1 = blocks.x1, *y1 = blocks.y1, *x2 = blocks.x2, *y2 = blocks.y2;
  const float *least_area = blocks.least_area, *greatest_area = blocks.greatest_area;
  float greatest = 0.f;
#pragma omp simd reduction(max : greatest)
  for (int64_t i = 0; i < num_blocks; ++i) {
    const float overlap = shared_area(x1[i], y1[i], x2[i], y2[i], box);
    const float shared = minimum(overlap, greatest_area[i]);
    const float together = box.area + (maximum(least_area[i], shared) - shared);
    const float bound = 1.001f * (shared / together) + 1.17549435e-38f;
    bounds[i] = shared > 0.f ? bound : 0.f;
    greatest = maximum(bounds[i], greatest);
  }
  return greatest;
}

float match_box(const AnchorBlock& anchors, const AssignBox& box, int32_t index, BlockMatch& match,
                float* ious) {
  float greatest = 0.f;
#pragma omp simd reduction(max : greatest)
  for (int i = 0; i < kAnchorBlock; ++i) {
    const float shared =
        shared_area(anchors.x1[i], anchors.y1[i], anchors.x2[i], anchors.y2[i], box);
    const float together = box.area + anchors.area[i] - shared;
    const float iou = together > 0.f ? shared / together : 0.f;
    const bool better = iou > match.iou[i];
    match.iou[i] = better ? iou : match.iou[i];
    match.box[i] = better ? index : match.box[i];
    ious[i] = iou;
    greatest = maximum(iou, greatest);
  }
  return greatest;
}

void ignore_crowd(const AnchorBlock& anchors, int count, const AssignBox& box, float overlap,
                  int32_t* matched, int32_t* cls_targets) {
#pragma omp simd
  for (int i = 0; i < count; ++i) {
    const float shared =
        shared_area(anchors.x1[i], anchors.y1[i], anchors.x2[i], anchors.y2[i], box);
    const float share = anchors.area[i] > 0.f ? shared / anchors.area[i] : 0.f;
    const bool ignored = (share >= overlap) & (share > 0.f) & (matched[i] == kBackground);
    matched[i] = ignored ? kIgnore : matched[i];
    cls_targets[i] = ignored ? kIgnore : cls_targets[i];
  }
}

}  // namespace effdet::EFFDET_ISA
