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
#include "loss_tensors.h"

namespace {

using namespace effdet;

template <typename scalar_t>
void box_loss_of(const Launcher& launch, const std::vector<Tensor>& deltas,
                 const std::vector<Tensor>& gradients, const Tensor& anchors, const Tensor& boxes,
                 const Tensor& matched, const Tensor& normalizer, const Tensor& grad_scale,
                 double delta, const Tensor& loss) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  BoxArguments<compute_t> empty;
  empty.levels.num_anchors = matched.size(1);
  empty.anchors = read_only<float4>(anchors);
  empty.boxes = read_only<float4>(boxes);
  empty.matched = read_only<int>(matched);
  empty.num_boxes = boxes.size(1);
  empty.normalizer = read_only<compute_t>(normalizer);
  empty.grad_scale = read_only<compute_t>(grad_scale);
  empty.delta = static_cast<compute_t>(delta);
  BoxArguments<compute_t> by_layout[2] = {empty, empty};
  int64_t first_anchor = 0;
  for (size_t l = 0; l < deltas.size(); ++l) {
    const LevelShape shape = shape_of(deltas[l], 4, first_anchor);
    add_box_level(by_layout[static_cast<int>(layout_of(deltas[l]))], shape,
                  deltas[l].const_data_ptr(), gradient_of(gradients, l),
                  static_cast<unsigned>(deltas[l].size(0)));
    first_anchor += int64_t{shape.positions} * shape.anchors;
  }
  const int64_t num_tiles = int64_t{by_layout[0].levels.num_tiles} + by_layout[1].levels.num_tiles;
  Tensor partial_sums = torch::stable::new_empty(deltas[0], {num_tiles}, ScalarType::Double);
  launch_box_loss<scalar_t>(launch, by_layout, writable<double>(partial_sums),
                            writable<compute_t>(loss));
}

Tensor readable(const Tensor& tensor, ScalarType dtype, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype && on_device_of(tensor, like),
                  "huber_box_loss: wrong dtype or device of ", name);
  return aligned(tensor);
}

// effdet::huber_box_loss
std::tuple<Tensor, std::vector<Tensor>> huber_box_loss(std::vector<Tensor> deltas, Tensor anchors,
                                                       Tensor boxes, Tensor matched,
                                                       Tensor normalizer, Tensor grad_scale,
                                                       double delta, bool need_grad) {
  check_num_levels(deltas, "huber_box_loss");
  STD_TORCH_CHECK(matched.dim() == 2 && boxes.dim() == 3 && boxes.size(0) == matched.size(0) &&
                      boxes.size(2) == 4 && anchors.dim() == 2 &&
                      anchors.size(0) == matched.size(1) && anchors.size(1) == 4,
                  "huber_box_loss: anchors must be [A, 4], boxes [B, M, 4] and matched [B, A]");
  const Launcher launch(deltas[0]);
  deltas =
      readable_levels(std::move(deltas), 4, matched.size(0), matched.size(1), "huber_box_loss");
  anchors = readable(anchors, ScalarType::Float, deltas[0], "anchors");
  boxes = readable(boxes, ScalarType::Float, deltas[0], "boxes");
  matched = readable(matched, ScalarType::Int, deltas[0], "matched");
  check_scalar(normalizer, deltas[0], "huber_box_loss: normalizer");
  check_scalar(grad_scale, deltas[0], "huber_box_loss: grad_scale");
  std::vector<Tensor> gradients = empty_gradients(deltas, need_grad);
  Tensor loss = torch::stable::new_empty(deltas[0], {}, loss_dtype(deltas[0]));
  with_storage(deltas[0], "huber_box_loss: deltas", [&](auto zero) {
    box_loss_of<decltype(zero)>(launch, deltas, gradients, anchors, boxes, matched, normalizer,
                                grad_scale, delta, loss);
  });
  return {loss, gradients};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) {
  library.impl("huber_box_loss", TORCH_BOX(&huber_box_loss));
}
