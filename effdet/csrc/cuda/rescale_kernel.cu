// SPDX-License-Identifier: Apache-2.0
// Registers rescale_ on CUDA; rescale.cuh holds the kernel.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "../common/dense.h"
#include "loss_tensors.h"
#include "rescale.cuh"

namespace {

using namespace effdet;

// One launch for tensors [first, last).
template <typename scalar_t>
void rescale_some(const Launcher& launch, const std::vector<Tensor>& gradients, size_t first,
                  size_t last, const Tensor& grad_output, const Tensor& grad_scale) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  RescaleArguments<compute_t> r;
  r.grad_output = read_only<compute_t>(grad_output);
  r.grad_scale = read_only<compute_t>(grad_scale);
  for (size_t t = first; t < last; ++t) {
    add_rescale_tensor(r, gradients[t].mutable_data_ptr(), gradients[t].numel());
  }
  launch_rescale<scalar_t>(launch, r);
}

// effdet::rescale_
void rescale_(std::vector<Tensor> gradients, Tensor grad_output, Tensor grad_scale) {
  if (gradients.empty()) return;
  check_scalar(grad_output, gradients[0], "rescale_: grad_output");
  check_scalar(grad_scale, gradients[0], "rescale_: grad_scale");
  for (const Tensor& gradient : gradients) {
    STD_TORCH_CHECK(is_dense(gradient) && gradient.scalar_type() == gradients[0].scalar_type() &&
                        on_device_of(gradient, gradients[0]),
                    "rescale_: gradients must be dense, of one dtype and on one CUDA device");
  }
  const Launcher launch(gradients[0]);
  for (size_t first = 0; first < gradients.size(); first += kMaxRescaleTensors) {
    const size_t last = std::min(gradients.size(), first + kMaxRescaleTensors);
    with_storage(gradients[0], "rescale_: gradients", [&](auto zero) {
      rescale_some<decltype(zero)>(launch, gradients, first, last, grad_output, grad_scale);
    });
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) { library.impl("rescale_", TORCH_BOX(&rescale_)); }
