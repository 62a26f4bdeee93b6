// SPDX-License-Identifier: Apache-2.0
// Inner loops of non-maximum suppression: one candidate against boxes that have been picked.
#pragma once
#include <cstdint>

#include "simd.h"

namespace effdet {

constexpr int kPickedLanes = 16;

// Picked boxes of one class, coordinate by coordinate. Unused lanes hold boxes that overlap
// nothing (left = top = infinity, right = bottom = minus infinity, area 0).
struct alignas(64) PickedBlock {
  float x1[kPickedLanes], y1[kPickedLanes], x2[kPickedLanes], y2[kPickedLanes], area[kPickedLanes];
};

struct CandidateBox {
  float x1, y1, x2, y2, area;
};

// Whether the IoU with any box of the block is above the threshold.
EFFDET_DECLARE_SIMD(bool overlaps_any(const PickedBlock& block, const CandidateBox& box,
                                      float iou_threshold))

// What each box of the block leaves of the candidate's score, [kPickedLanes]: 1 - IoU where the IoU
// is above the threshold, else 1.
EFFDET_DECLARE_SIMD(void linear_factors(const PickedBlock& block, const CandidateBox& box,
                                        float iou_threshold, float* factors))

// The same with 2^(IoU^2 * exponent).
EFFDET_DECLARE_SIMD(void gaussian_factors(const PickedBlock& block, const CandidateBox& box,
                                          float exponent, float* factors))

}  // namespace effdet
