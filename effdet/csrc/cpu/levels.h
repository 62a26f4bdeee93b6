// SPDX-License-Identifier: Apache-2.0
// The levels of the heads' outputs, checked, as pointers. See effdet/levels.py.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

namespace effdet {

// One level `[images, slots * values, height, width]`: `slots` anchors at each of `places` =
// height * width. Channels-last it lies in memory as [images, places, slots, values], contiguous
// as [images, slots, values, places].
struct Level {
  const void* values;
  void* gradients;  // laid out as the values; may be null
  int64_t images, slots, places;
  int64_t first_anchor;  // of the level among all anchors of an image
  bool channels_last;

  int64_t rows() const { return places * slots; }
};

// Whether the elements lie densely in the order of the dimensions `order`, outermost first.
inline bool lies_in_order(const torch::stable::Tensor& tensor, const int (&order)[4]) {
  int64_t expected = 1;
  for (int i = 3; i >= 0; --i) {
    const int64_t size = tensor.size(order[i]);
    if (size != 1 && tensor.stride(order[i]) != expected) return false;
    expected *= size;
  }
  return true;
}

// `gradients` belong to `tensors` one by one, or are empty.
inline std::vector<Level> find_levels(const char* op,
                                      const std::vector<torch::stable::Tensor>& tensors,
                                      const std::vector<torch::stable::Tensor>& gradients,
                                      int64_t num_values, int64_t num_images, int64_t num_anchors) {
  std::vector<Level> levels;
  int64_t first_anchor = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& x = tensors[i];
    STD_TORCH_CHECK(x.is_cpu() && x.dim() == 4 && x.size(0) == num_images &&
                        x.size(1) % num_values == 0 && x.scalar_type() == tensors[0].scalar_type(),
                    op, ": level ", i, " must be [", num_images, ", anchors * ", num_values,
                    ", H, W] on the CPU, of one dtype with the others");
    const bool empty = x.numel() == 0;
    const bool channels_last = empty || lies_in_order(x, {0, 2, 3, 1});
    STD_TORCH_CHECK(channels_last || lies_in_order(x, {0, 1, 2, 3}), op, ": level ", i,
                    " must be contiguous or channels-last");
    levels.push_back({x.const_data_ptr(),
                      gradients.empty() ? nullptr : gradients[i].mutable_data_ptr(), x.size(0),
                      x.size(1) / num_values, x.size(2) * x.size(3), first_anchor, channels_last});
    first_anchor += levels.back().rows();
  }
  STD_TORCH_CHECK(first_anchor == num_anchors, op, ": the levels have ", first_anchor,
                  " anchors, expected ", num_anchors);
  return levels;
}

}  // namespace effdet
