// SPDX-License-Identifier: Apache-2.0
// Target assignment on the CPU, without the IoU matrix.
//
// The definition and the meaning of the arguments stand in effdet/ops/assign.py. Neighbouring
// anchors lie close together, so most blocks of them cannot matter to a box: their greatest
// possible IoU is 0, or below both the threshold and the best IoU that the box has found. Passing
// them over changes no result.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <tuple>
#include <vector>

#include "../common/codes.h"
#include "assign.h"

namespace effdet {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBlocksPerTask = 64;

// All anchors in blocks, used by every image.
class AnchorBlocks {
 public:
  AnchorBlocks(const float* anchors, int64_t num_anchors)
      : num_anchors_(num_anchors),
        blocks_((num_anchors + kAnchorBlock - 1) / kAnchorBlock),
        bounds_(6 * blocks_.size()) {
    const auto fill_block = EFFDET_SIMD(fill_anchor_block);
    torch::stable::parallel_for(0, size(), kBlocksPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        fill_block(anchors + 4 * kAnchorBlock * i, count(i), blocks_[i], bounds(), i);
    });
  }

  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t num_anchors() const { return num_anchors_; }
  const AnchorBlock& operator[](int64_t i) const { return blocks_[i]; }

  // Anchors in block i, without the filling.
  int count(int64_t i) const {
    return static_cast<int>(std::min<int64_t>(kAnchorBlock, num_anchors_ - i * kAnchorBlock));
  }

  BlockBounds bounds() {
    float* at = bounds_.data();
    const int64_t n = size();
    return {at, at + n, at + 2 * n, at + 3 * n, at + 4 * n, at + 5 * n};
  }

 private:
  int64_t num_anchors_;
  std::vector<AnchorBlock> blocks_;
  std::vector<float> bounds_;
};

AssignBox load_box(const float* at) {
  return {at[0], at[1], at[2], at[3], (at[2] - at[0]) * (at[3] - at[1])};
}

// The assignment of one image.
class ImageMatcher {
 public:
  ImageMatcher(AnchorBlocks& anchors, float foreground_iou, float crowd_overlap)
      : anchors_(anchors),
        block_bounds_(anchors.bounds()),
        foreground_iou_(foreground_iou),
        crowd_overlap_(crowd_overlap),
        bounds_(anchors.size()),
        is_used_(anchors.size()),
        // Uninitialised: most blocks are never used.
        matches_(new BlockMatch[anchors.size()]) {}

  // Writes `matched` and `cls_targets` [A]; returns how many anchors have a box.
  int64_t run(const float* boxes, const int64_t* labels, int64_t num_boxes, int32_t* matched,
              int32_t* cls_targets) {
    std::fill_n(matched, anchors_.num_anchors(), kBackground);
    std::fill_n(cls_targets, anchors_.num_anchors(), kBackground);
    std::vector<int64_t> best_anchors(num_boxes);
    for (int64_t i = 0; i < num_boxes; ++i)
      if (is_object(labels[i]))
        best_anchors[i] = match(load_box(boxes + 4 * i), static_cast<int32_t>(i));

    int64_t num_foreground = 0;
    for (int64_t block = 0; block < anchors_.size(); ++block)
      if (is_used_[block]) num_foreground += write(block, labels, matched, cls_targets);
    // Backwards: the lowest index has the last word.
    for (int64_t i = num_boxes - 1; i >= 0; --i) {
      if (!is_object(labels[i])) continue;
      num_foreground += matched[best_anchors[i]] < 0;
      matched[best_anchors[i]] = static_cast<int32_t>(i);
      cls_targets[best_anchors[i]] = static_cast<int32_t>(labels[i]);
    }
    for (int64_t i = 0; i < num_boxes; ++i)
      if (labels[i] == kIgnore) ignore(load_box(boxes + 4 * i), matched, cls_targets);
    return num_foreground;
  }

 private:
  struct Best {
    float iou;
    int64_t anchor;
  };

  static bool is_object(int64_t label) { return label != kBackground && label != kIgnore; }

  // Offers the box to all anchors that can matter; returns the first of those that overlap it most.
  int64_t match(const AssignBox& box, int32_t index) {
    const float greatest =
        EFFDET_SIMD(bound_ious)(block_bounds_, anchors_.size(), box, bounds_.data());
    Best best{0, 0};
    if (!(greatest > 0)) return best.anchor;
    // The most promising block first: what it yields spares most of the others.
    const int64_t first = std::find(bounds_.begin(), bounds_.end(), greatest) - bounds_.begin();
    match_block(first, box, index, best);
    for (int64_t block = 0; block < anchors_.size(); ++block) {
      const float bound = bounds_[block];
      if (bound > 0 && bound >= std::min(foreground_iou_, best.iou) && block != first)
        match_block(block, box, index, best);
    }
    return best.anchor;
  }

  void match_block(int64_t block, const AssignBox& box, int32_t index, Best& best) {
    BlockMatch& match = matches_[block];
    if (!is_used_[block]) {
      std::fill_n(match.iou, kAnchorBlock, 0.f);
      std::fill_n(match.box, kAnchorBlock, kBackground);
      is_used_[block] = true;
    }
    float ious[kAnchorBlock];
    const float iou = EFFDET_SIMD(match_box)(anchors_[block], box, index, match, ious);
    if (iou == 0 || iou < best.iou) return;
    const int64_t anchor =
        block * kAnchorBlock + (std::find(ious, ious + kAnchorBlock, iou) - ious);
    if (iou > best.iou || anchor < best.anchor) best = {iou, anchor};
  }

  // Writes the anchors of a block that reach the threshold; returns how many.
  int64_t write(int64_t block, const int64_t* labels, int32_t* matched, int32_t* cls_targets) {
    const BlockMatch& match = matches_[block];
    int64_t num_foreground = 0;
    for (int i = 0; i < anchors_.count(block); ++i) {
      if (match.box[i] < 0 || match.iou[i] < foreground_iou_) continue;
      matched[block * kAnchorBlock + i] = match.box[i];
      cls_targets[block * kAnchorBlock + i] = static_cast<int32_t>(labels[match.box[i]]);
      ++num_foreground;
    }
    return num_foreground;
  }

  void ignore(const AssignBox& crowd, int32_t* matched, int32_t* cls_targets) {
    EFFDET_SIMD(bound_ious)(block_bounds_, anchors_.size(), crowd, bounds_.data());
    const auto ignore_block = EFFDET_SIMD(ignore_crowd);
    for (int64_t block = 0; block < anchors_.size(); ++block) {
      const int64_t first = block * kAnchorBlock;
      if (bounds_[block] != 0)  // also NaN, the bound of an infinite region
        ignore_block(anchors_[block], anchors_.count(block), crowd, crowd_overlap_, matched + first,
                     cls_targets + first);
    }
  }

  const AnchorBlocks& anchors_;
  BlockBounds block_bounds_;
  float foreground_iou_, crowd_overlap_;
  std::vector<float> bounds_;
  std::vector<uint8_t> is_used_;
  std::unique_ptr<BlockMatch[]> matches_;
};

void check(const Tensor& anchors, const Tensor& boxes, const Tensor& labels) {
  STD_TORCH_CHECK(anchors.is_cpu() && anchors.scalar_type() == ScalarType::Float &&
                      anchors.dim() == 2 && anchors.size(1) == 4,
                  "assign_anchors: anchors must be [A, 4] float32 on the CPU");
  STD_TORCH_CHECK(boxes.is_cpu() && boxes.scalar_type() == ScalarType::Float && boxes.dim() == 3 &&
                      boxes.size(2) == 4,
                  "assign_anchors: boxes must be [B, M, 4] float32 on the CPU");
  STD_TORCH_CHECK(labels.is_cpu() && labels.scalar_type() == ScalarType::Long &&
                      labels.dim() == 2 && labels.size(0) == boxes.size(0) &&
                      labels.size(1) == boxes.size(1),
                  "assign_anchors: labels must be [B, M] int64 on the CPU");
  const int64_t limit = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(anchors.size(0) < limit && boxes.size(1) < limit,
                  "assign_anchors: at most 2^31 - 2 anchors and boxes");
}

// effdet::assign_anchors
std::tuple<Tensor, Tensor, Tensor> assign_anchors(Tensor anchors, Tensor boxes, Tensor labels,
                                                  double foreground_iou, double crowd_overlap) {
  check(anchors, boxes, labels);
  anchors = torch::stable::contiguous(anchors);
  boxes = torch::stable::contiguous(boxes);
  labels = torch::stable::contiguous(labels);
  const int64_t num_images = boxes.size(0), num_boxes = boxes.size(1);
  const int64_t num_anchors = anchors.size(0);
  Tensor matched = torch::stable::new_empty(labels, {num_images, num_anchors}, ScalarType::Int);
  Tensor cls_targets = torch::stable::empty_like(matched);
  Tensor num_foreground = torch::stable::new_zeros(boxes, {}, ScalarType::Float);
  if (matched.numel() == 0) return {matched, cls_targets, num_foreground};

  AnchorBlocks blocks(static_cast<const float*>(anchors.const_data_ptr()), num_anchors);
  const auto* all_boxes = static_cast<const float*>(boxes.const_data_ptr());
  const auto* all_labels = static_cast<const int64_t*>(labels.const_data_ptr());
  auto* all_matched = static_cast<int32_t*>(matched.mutable_data_ptr());
  auto* all_cls_targets = static_cast<int32_t*>(cls_targets.mutable_data_ptr());
  std::vector<int64_t> counts(num_images);
  torch::stable::parallel_for(0, num_images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      counts[i] = ImageMatcher(blocks, static_cast<float>(foreground_iou),
                               static_cast<float>(crowd_overlap))
                      .run(all_boxes + 4 * num_boxes * i, all_labels + num_boxes * i, num_boxes,
                           all_matched + num_anchors * i, all_cls_targets + num_anchors * i);
  });
  torch::stable::fill_(num_foreground,
                       static_cast<double>(std::accumulate(counts.begin(), counts.end(), 0L)));
  return {matched, cls_targets, num_foreground};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CPU, library) {
  library.impl("assign_anchors", TORCH_BOX(&assign_anchors));
}

}  // namespace effdet
