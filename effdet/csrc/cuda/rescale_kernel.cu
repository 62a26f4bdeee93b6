// SPDX-License-Identifier: Apache-2.0
// Registers rescale_ on CUDA; rescale.cuh holds the kernel.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "level_tensors.h"
#include "rescale.cuh"

namespace {

using namespace effdet;

// Whether the elements fill their memory without gaps, in any order of dimensions.
bool is_dense(const Tensor& tensor) {
  if (tensor.numel() == 0) return true;
  std::vector<std::pair<int64_t, int64_t>> by_stride;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != 1) by_stride.emplace_back(tensor.stride(d), tensor.size(d));
  }
  std::sort(by_stride.begin(), by_stride.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : by_stride) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// One launch for tensors [first, last).
template <typename scalar_t>
void rescale_some(const std::vector<Tensor>& gradients, size_t first, size_t last,
                  const Tensor& grad_output, const Tensor& grad_scale) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  RescaleArguments<compute_t> r;
  r.grad_output = static_cast<const compute_t*>(grad_output.const_data_ptr());
  r.grad_scale = static_cast<const compute_t*>(grad_scale.const_data_ptr());
  int64_t largest = 0;
  for (size_t t = first; t < last; ++t) {
    r.values[r.count] = gradients[t].mutable_data_ptr();
    r.sizes[r.count++] = gradients[t].numel();
    largest = std::max(largest, gradients[t].numel());
  }
  if (largest == 0) return;
  const int64_t per_block = int64_t{kRescaleThreads} * Storage<scalar_t>::kVector;
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>((largest + per_block - 1) / per_block, kMaxRescaleBlocks));
  rescale<scalar_t><<<blocks, kRescaleThreads, 0, current_stream(grad_output)>>>(r);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// effdet::rescale_
void rescale_(std::vector<Tensor> gradients, Tensor grad_output, Tensor grad_scale) {
  if (gradients.empty()) return;
  const ScalarType dtype = loss_dtype(gradients[0]);
  check_scalar(grad_output, dtype, gradients[0], "rescale_: grad_output");
  check_scalar(grad_scale, dtype, gradients[0], "rescale_: grad_scale");
  for (const Tensor& gradient : gradients) {
    STD_TORCH_CHECK(gradient.is_cuda() && is_dense(gradient) &&
                        gradient.scalar_type() == gradients[0].scalar_type() &&
                        gradient.get_device_index() == gradients[0].get_device_index(),
                    "rescale_: gradients must be dense, of one dtype and on one CUDA device");
  }
  torch::stable::accelerator::DeviceGuard guard(gradients[0].get_device_index());
  for (size_t first = 0; first < gradients.size(); first += kMaxRescaleTensors) {
    const size_t last = std::min(gradients.size(), first + kMaxRescaleTensors);
    with_storage(gradients[0], "rescale_: gradients", [&](auto zero) {
      rescale_some<decltype(zero)>(gradients, first, last, grad_output, grad_scale);
    });
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) { library.impl("rescale_", TORCH_BOX(&rescale_)); }
