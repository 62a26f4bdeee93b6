// SPDX-License-Identifier: Apache-2.0
// What assign_kernel.cpp and its inner loops share. Coordinates are pixels, boxes xyxy.
#pragma once
#include <cstdint>

#include "simd.h"

namespace effdet {

// Anchors that are compared with a box, or passed over, together.
constexpr int kAnchorBlock = 128;

// A block of anchors; what is left of the last one is filled with NaN, which overlaps nothing.
struct AnchorBlock {
  float x1[kAnchorBlock], y1[kAnchorBlock], x2[kAnchorBlock], y2[kAnchorBlock], area[kAnchorBlock];
};

// For each block the rectangle around its anchors and their least and greatest area.
struct BlockBounds {
  float *x1, *y1, *x2, *y2, *least_area, *greatest_area;
};

struct AssignBox {
  float x1, y1, x2, y2, area;
};

// The best box so far of each anchor of a block (-1: none), and the IoU with it.
struct BlockMatch {
  float iou[kAnchorBlock];
  int32_t box[kAnchorBlock];
};

// Copies `count` xyxy anchors into a block and writes entry `index` of the bounds.
EFFDET_DECLARE_SIMD(void fill_anchor_block(const float* anchors, int count, AnchorBlock& block,
                                           const BlockBounds& bounds, int64_t index))

// Writes for each block a number that no IoU of the box with an anchor in it exceeds, 0 where
// there is no overlap; returns the greatest.
EFFDET_DECLARE_SIMD(float bound_ious(const BlockBounds& blocks, int64_t num_blocks,
                                     const AssignBox& box, float* bounds))

// Gives box number `index` to the anchors that overlap it more than their best box so far. Writes
// the IoUs [kAnchorBlock] and returns the greatest.
EFFDET_DECLARE_SIMD(float match_box(const AnchorBlock& anchors, const AssignBox& box, int32_t index,
                                    BlockMatch& match, float* ious))

// Turns background into ignored where at least the share `overlap` of the anchor is on the box.
EFFDET_DECLARE_SIMD(void ignore_crowd(const AnchorBlock& anchors, int count, const AssignBox& box,
                                      float overlap, int32_t* matched, int32_t* cls_targets))

}  // namespace effdet
