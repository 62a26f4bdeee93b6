// SPDX-License-Identifier: Apache-2.0
// The heads' outputs on the host: checks and memory layouts.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

#include "launch.h"
#include "levels.cuh"

namespace effdet {

// Whether [B, C, H, W] lies in memory as B H W C. Strides of dimensions of size 1 mean nothing.
inline bool is_channels_last(const Tensor& level) {
  const int64_t C = level.size(1), H = level.size(2), W = level.size(3);
  return (C <= 1 || level.stride(1) == 1) && (W <= 1 || level.stride(3) == C) &&
         (H <= 1 || level.stride(2) == C * W) &&
         (level.size(0) <= 1 || level.stride(0) == C * H * W);
}

inline Layout layout_of(const Tensor& level) {
  return is_channels_last(level) ? Layout::channels_last : Layout::contiguous;
}

// Of a level [B, anchors * values, H, W].
inline LevelShape shape_of(const Tensor& level, int64_t values, int64_t first_anchor) {
  const int64_t positions = level.size(2) * level.size(3);
  return {first_anchor, static_cast<unsigned>(level.size(1) * positions),
          static_cast<unsigned>(positions), static_cast<unsigned>(level.size(1) / values)};
}

inline void check_num_levels(const std::vector<Tensor>& levels, const char* name) {
  STD_TORCH_CHECK(!levels.empty() && levels.size() <= kMaxLevels, name,
                  ": on CUDA there must be 1 to ", kMaxLevels, " levels, got ", levels.size());
}

// Checks levels [B, anchors * values, H, W] against the first one and the number of anchors, and
// copies those that a kernel cannot read: strides of neither layout, memory not aligned to 16
// bytes.
inline std::vector<Tensor> readable_levels(std::vector<Tensor> levels, int64_t values,
                                           int64_t batch, int64_t num_anchors, const char* name) {
  check_num_levels(levels, name);
  int64_t found = 0;
  for (Tensor& level : levels) {
    STD_TORCH_CHECK(level.dim() == 4 && level.size(0) == batch && level.size(1) % values == 0, name,
                    ": every level must be [B, anchors * ", values, ", H, W] with B = ", batch);
    STD_TORCH_CHECK(
        level.scalar_type() == levels[0].scalar_type() && on_device_of(level, levels[0]), name,
        ": all levels must have one dtype and lie on one CUDA device");
    const int64_t size = level.size(1) * level.size(2) * level.size(3);
    STD_TORCH_CHECK(size < int64_t{1} << 31, name,
                    ": on CUDA an image must have fewer than 2^31 = ", int64_t{1} << 31,
                    " values in a level, got ", size);
    found += size / values;
    level = is_channels_last(level) ? aligned_as_it_is(level) : aligned(level);
  }
  STD_TORCH_CHECK(found == num_anchors, name, ": the levels have ", found, " anchors, expected ",
                  num_anchors);
  return levels;
}

}  // namespace effdet
