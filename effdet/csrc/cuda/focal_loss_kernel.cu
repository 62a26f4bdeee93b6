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

namespace {

using namespace effdet;

struct Settings {
  int64_t num_classes;
  double alpha, gamma, label_smoothing;
};

template <typename scalar_t>
void focal_loss(const std::vector<Tensor>& logits, const std::vector<Tensor>& gradients,
                const Tensor& targets, const Tensor& normalizer, const Tensor& grad_scale,
                const Settings& settings, const Tensor& loss) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  const auto* divisor = static_cast<const compute_t*>(normalizer.const_data_ptr());
  const auto empty =
      focal_arguments<compute_t>(static_cast<const int*>(targets.const_data_ptr()), targets.size(1),
                                 static_cast<unsigned>(settings.num_classes), divisor,
                                 static_cast<const compute_t*>(grad_scale.const_data_ptr()),
                                 settings.alpha, settings.gamma, settings.label_smoothing);
  FocalArguments<compute_t> by_layout[2] = {empty, empty};
  int64_t first_anchor = 0;
  for (size_t l = 0; l < logits.size(); ++l) {
    const Tensor& x = logits[l];
    const Layout layout = is_channels_last(x) ? Layout::channels_last : Layout::contiguous;
    const int64_t positions = x.size(2) * x.size(3), anchors = x.size(1) / settings.num_classes;
    add_focal_level(by_layout[static_cast<int>(layout)], layout, Storage<scalar_t>::kVector,
                    x.const_data_ptr(),
                    gradients.empty() ? nullptr : gradients[l].mutable_data_ptr(), first_anchor,
                    static_cast<unsigned>(x.size(0)), static_cast<unsigned>(positions),
                    static_cast<unsigned>(anchors));
    first_anchor += positions * anchors;
  }

  const cudaStream_t stream = current_stream(logits[0]);
  const int64_t num_tiles = int64_t{by_layout[0].levels.num_tiles} + by_layout[1].levels.num_tiles;
  Tensor partial = torch::stable::new_empty(logits[0], {num_tiles}, ScalarType::Double);
  auto* partial_sums = static_cast<double*>(partial.mutable_data_ptr());
  int64_t first_tile = 0;
  for (const Layout layout : {Layout::channels_last, Layout::contiguous}) {
    FocalArguments<compute_t>& f = by_layout[static_cast<int>(layout)];
    if (f.levels.num_tiles == 0) continue;
    f.partial_sums = partial_sums + first_tile;
    first_tile += f.levels.num_tiles;
    with_focal_kernel<scalar_t>(layout, settings.gamma, settings.label_smoothing, [&](auto kernel) {
      kernel<<<f.levels.num_tiles, kFocalThreads, 0, stream>>>(f);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  mean_of_partial_sums<compute_t><<<1, kSumThreads, 0, stream>>>(
      partial_sums, num_tiles, divisor, static_cast<compute_t*>(loss.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// effdet::sigmoid_focal_loss
std::tuple<Tensor, std::vector<Tensor>> sigmoid_focal_loss(std::vector<Tensor> logits,
                                                           Tensor targets, Tensor normalizer,
                                                           Tensor grad_scale, int64_t num_classes,
                                                           double alpha, double gamma,
                                                           double label_smoothing, bool need_grad) {
  STD_TORCH_CHECK(!logits.empty() && logits.size() <= kMaxLevels,
                  "sigmoid_focal_loss: there must be 1 to ", kMaxLevels, " levels, got ",
                  logits.size());
  STD_TORCH_CHECK(num_classes > 0 && num_classes < (int64_t{1} << 26),
                  "sigmoid_focal_loss: num_classes must be in [1, 2^26), got ", num_classes);
  STD_TORCH_CHECK(targets.dim() == 2 && targets.scalar_type() == ScalarType::Int &&
                      targets.is_cuda() &&
                      targets.get_device_index() == logits[0].get_device_index(),
                  "sigmoid_focal_loss: targets must be int32 [B, A] on the device of the logits");
  torch::stable::accelerator::DeviceGuard guard(logits[0].get_device_index());
  logits = readable_levels(std::move(logits), num_classes, targets.size(0), targets.size(1),
                           "sigmoid_focal_loss");
  targets = torch::stable::contiguous(targets);
  const ScalarType dtype = loss_dtype(logits[0]);
  check_scalar(normalizer, dtype, logits[0], "sigmoid_focal_loss: normalizer");
  check_scalar(grad_scale, dtype, logits[0], "sigmoid_focal_loss: grad_scale");
  std::vector<Tensor> gradients = empty_gradients(logits, need_grad);
  Tensor loss = torch::stable::new_empty(logits[0], {}, dtype);

  with_storage(logits[0], "sigmoid_focal_loss: logits", [&](auto zero) {
    focal_loss<decltype(zero)>(logits, gradients, targets, normalizer, grad_scale,
                               {num_classes, alpha, gamma, label_smoothing}, loss);
  });
  return {loss, gradients};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) {
  library.impl("sigmoid_focal_loss", TORCH_BOX(&sigmoid_focal_loss));
}
