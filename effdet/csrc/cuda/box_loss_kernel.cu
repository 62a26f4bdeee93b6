// SPDX-License-Identifier: Apache-2.0
// Registers the box loss on CUDA; box_loss.cuh holds the kernel.
//
// Two or three launches (one a memory layout that occurs, one for the sum), no atomics, no copy to
// the host: a run repeats to the last bit and can be captured in a CUDA graph.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "box_loss.cuh"
#include "level_tensors.h"

namespace {

using namespace effdet;

template <typename scalar_t>
void box_loss_of(const std::vector<Tensor>& deltas, const std::vector<Tensor>& gradients,
                 const Tensor& anchors, const Tensor& boxes, const Tensor& matched,
                 const Tensor& normalizer, const Tensor& grad_scale, double delta,
                 const Tensor& loss) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  BoxArguments<compute_t> empty;
  empty.levels.num_anchors = matched.size(1);
  empty.anchors = static_cast<const float4*>(anchors.const_data_ptr());
  empty.boxes = static_cast<const float4*>(boxes.const_data_ptr());
  empty.matched = static_cast<const int*>(matched.const_data_ptr());
  empty.num_boxes = boxes.size(1);
  empty.normalizer = static_cast<const compute_t*>(normalizer.const_data_ptr());
  empty.grad_scale = static_cast<const compute_t*>(grad_scale.const_data_ptr());
  empty.delta = static_cast<compute_t>(delta);
  BoxArguments<compute_t> rows = empty, planes = empty;  // channels_last and contiguous levels
  int64_t first_anchor = 0;
  for (size_t l = 0; l < deltas.size(); ++l) {
    const Tensor& x = deltas[l];
    const int64_t positions = x.size(2) * x.size(3), at_one_position = x.size(1) / 4;
    add_box_level(is_channels_last(x) ? rows : planes, x.const_data_ptr(),
                  gradients.empty() ? nullptr : gradients[l].mutable_data_ptr(), first_anchor,
                  static_cast<unsigned>(x.size(0)), static_cast<unsigned>(positions),
                  static_cast<unsigned>(at_one_position));
    first_anchor += positions * at_one_position;
  }

  const cudaStream_t stream = current_stream(deltas[0]);
  const int64_t num_tiles = int64_t{rows.levels.num_tiles} + planes.levels.num_tiles;
  Tensor partial = torch::stable::new_empty(deltas[0], {num_tiles}, ScalarType::Double);
  auto* partial_sums = static_cast<double*>(partial.mutable_data_ptr());
  rows.partial_sums = partial_sums;
  planes.partial_sums = partial_sums + rows.levels.num_tiles;
  if (rows.levels.num_tiles > 0) {
    box_loss<scalar_t, Layout::channels_last>
        <<<rows.levels.num_tiles, kBoxThreads, 0, stream>>>(rows);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  if (planes.levels.num_tiles > 0) {
    box_loss<scalar_t, Layout::contiguous>
        <<<planes.levels.num_tiles, kBoxThreads, 0, stream>>>(planes);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  mean_of_partial_sums<compute_t><<<1, kSumThreads, 0, stream>>>(
      partial_sums, num_tiles, empty.normalizer, static_cast<compute_t*>(loss.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// `tensor` in contiguous memory that float4 can read.
Tensor readable(Tensor tensor, ScalarType dtype, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype && tensor.is_cuda() &&
                      tensor.get_device_index() == like.get_device_index(),
                  "huber_box_loss: wrong dtype or device of ", name);
  tensor = torch::stable::contiguous(tensor);
  const bool aligned = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  return aligned ? tensor : torch::stable::clone(tensor);
}

// effdet::huber_box_loss
std::tuple<Tensor, std::vector<Tensor>> huber_box_loss(std::vector<Tensor> deltas, Tensor anchors,
                                                       Tensor boxes, Tensor matched,
                                                       Tensor normalizer, Tensor grad_scale,
                                                       double delta, bool need_grad) {
  STD_TORCH_CHECK(!deltas.empty() && deltas.size() <= kMaxLevels,
                  "huber_box_loss: there must be 1 to ", kMaxLevels, " levels, got ",
                  deltas.size());
  STD_TORCH_CHECK(matched.dim() == 2 && boxes.dim() == 3 && boxes.size(0) == matched.size(0) &&
                      boxes.size(2) == 4 && anchors.dim() == 2 &&
                      anchors.size(0) == matched.size(1) && anchors.size(1) == 4,
                  "huber_box_loss: anchors must be [A, 4], boxes [B, M, 4] and matched [B, A]");
  torch::stable::accelerator::DeviceGuard guard(deltas[0].get_device_index());
  deltas =
      readable_levels(std::move(deltas), 4, matched.size(0), matched.size(1), "huber_box_loss");
  anchors = readable(anchors, ScalarType::Float, deltas[0], "anchors");
  boxes = readable(boxes, ScalarType::Float, deltas[0], "boxes");
  matched = readable(matched, ScalarType::Int, deltas[0], "matched");
  const ScalarType dtype = loss_dtype(deltas[0]);
  check_scalar(normalizer, dtype, deltas[0], "huber_box_loss: normalizer");
  check_scalar(grad_scale, dtype, deltas[0], "huber_box_loss: grad_scale");
  std::vector<Tensor> gradients = empty_gradients(deltas, need_grad);
  Tensor loss = torch::stable::new_empty(deltas[0], {}, dtype);
  with_storage(deltas[0], "huber_box_loss: deltas", [&](auto zero) {
    box_loss_of<decltype(zero)>(deltas, gradients, anchors, boxes, matched, normalizer, grad_scale,
                                delta, loss);
  });
  return {loss, gradients};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) {
  library.impl("huber_box_loss", TORCH_BOX(&huber_box_loss));
}
