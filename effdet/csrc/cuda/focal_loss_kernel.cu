// SPDX-License-Identifier: Apache-2.0
// Registers the focal loss on CUDA; focal_loss.cuh holds the kernels.
//
// Two or three launches (one a memory layout that occurs, one for the sum), no atomics, no copy to
// the host, no memory that must be cleared: a run repeats to the last bit and can be captured in a
// CUDA graph.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "focal_loss.cuh"
#include "level_tensors.h"
#include "loss_tensors.h"

namespace {

using namespace effdet;

struct Settings {
  int64_t num_classes;
  double alpha, gamma, label_smoothing;
};

template <typename scalar_t>
void focal_loss(const Launcher& launch, const std::vector<Tensor>& logits,
                const std::vector<Tensor>& gradients, const Tensor& targets,
                const Tensor& normalizer, const Tensor& grad_scale, const Settings& settings,
                const Tensor& loss) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  const auto empty = focal_arguments<compute_t>(
      read_only<int>(targets), targets.size(1), static_cast<unsigned>(settings.num_classes),
      read_only<compute_t>(normalizer), read_only<compute_t>(grad_scale), settings.alpha,
      settings.gamma, settings.label_smoothing);
  FocalArguments<compute_t> by_layout[2] = {empty, empty};
  int64_t first_anchor = 0;
  for (size_t l = 0; l < logits.size(); ++l) {
    const Layout layout = layout_of(logits[l]);
    const LevelShape shape = shape_of(logits[l], settings.num_classes, first_anchor);
    add_focal_level(by_layout[static_cast<int>(layout)], layout, Storage<scalar_t>::kVector, shape,
                    logits[l].const_data_ptr(), gradient_of(gradients, l),
                    static_cast<unsigned>(logits[l].size(0)));
    first_anchor += int64_t{shape.positions} * shape.anchors;
  }
  const int64_t num_tiles = int64_t{by_layout[0].levels.num_tiles} + by_layout[1].levels.num_tiles;
  Tensor partial_sums = torch::stable::new_empty(logits[0], {num_tiles}, ScalarType::Double);
  launch_focal_loss<scalar_t>(launch, by_layout, settings.gamma, settings.label_smoothing,
                              writable<double>(partial_sums), writable<compute_t>(loss));
}

// effdet::sigmoid_focal_loss
std::tuple<Tensor, std::vector<Tensor>> sigmoid_focal_loss(std::vector<Tensor> logits,
                                                           Tensor targets, Tensor normalizer,
                                                           Tensor grad_scale, int64_t num_classes,
                                                           double alpha, double gamma,
                                                           double label_smoothing, bool need_grad) {
  check_num_levels(logits, "sigmoid_focal_loss");
  STD_TORCH_CHECK(num_classes > 0 && num_classes < int64_t{1} << 26,
                  "sigmoid_focal_loss: on CUDA num_classes must be at least 1 and below 2^26 = ",
                  int64_t{1} << 26, ", got ", num_classes);
  STD_TORCH_CHECK(targets.dim() == 2 && targets.scalar_type() == ScalarType::Int &&
                      on_device_of(targets, logits[0]),
                  "sigmoid_focal_loss: targets must be int32 [B, A] on the device of the logits");
  const Launcher launch(logits[0]);
  logits = readable_levels(std::move(logits), num_classes, targets.size(0), targets.size(1),
                           "sigmoid_focal_loss");
  targets = torch::stable::contiguous(targets);
  check_scalar(normalizer, logits[0], "sigmoid_focal_loss: normalizer");
  check_scalar(grad_scale, logits[0], "sigmoid_focal_loss: grad_scale");
  std::vector<Tensor> gradients = empty_gradients(logits, need_grad);
  Tensor loss = torch::stable::new_empty(logits[0], {}, loss_dtype(logits[0]));

  with_storage(logits[0], "sigmoid_focal_loss: logits", [&](auto zero) {
    focal_loss<decltype(zero)>(launch, logits, gradients, targets, normalizer, grad_scale,
                               {num_classes, alpha, gamma, label_smoothing}, loss);
  });
  return {loss, gradients};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) {
  library.impl("sigmoid_focal_loss", TORCH_BOX(&sigmoid_focal_loss));
}
