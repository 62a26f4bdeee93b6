// SPDX-License-Identifier: Apache-2.0
// Inner loops of nms.h.
#pragma once
#include "nms.h"
#include "simd_math.h"

namespace effdet::EFFDET_ISA {

// IoU with lane i, in the order of operations of torchvision; NaN for 0 / 0.
EFFDET_INLINE float iou_with(const PickedBlock& block, int i, const CandidateBox& box) {
  const float width = minimum(box.x2, block.x2[i]) - maximum(box.x1, block.x1[i]);
  const float height = minimum(box.y2, block.y2[i]) - maximum(box.y1, block.y1[i]);
  const float intersection = maximum(0.f, width) * maximum(0.f, height);
  return intersection / (block.area[i] + box.area - intersection);
}

bool overlaps_any(const PickedBlock& block, const CandidateBox& box, float iou_threshold) {
  int any = 0;
#pragma omp simd reduction(| : any)
  for (int i = 0; i < kPickedLanes; ++i) any |= iou_with(block, i, box) > iou_threshold;
  return any;
}

void linear_factors(const PickedBlock& block, const CandidateBox& box, float iou_threshold,
                    float* factors) {
#pragma omp simd
  for (int i = 0; i < kPickedLanes; ++i) {
    const float iou = iou_with(block, i, box);
    factors[i] = iou > iou_threshold ? 1.f - iou : 1.f;
  }
}

void gaussian_factors(const PickedBlock& block, const CandidateBox& box, float exponent,
                      float* factors) {
#pragma omp simd
  for (int i = 0; i < kPickedLanes; ++i) {
    const float iou = iou_with(block, i, box);
    const float overlap = iou > 0.f ? iou : 0.f;  // NaN is no overlap
    const float t = overlap * overlap * exponent;
    const float power = exp2_in_range(maximum(t, -126.f));
    factors[i] = t < -126.f ? 0.f : power;
  }
}

}  // namespace effdet::EFFDET_ISA
