// SPDX-License-Identifier: Apache-2.0
// Gradients times the ratio of the scale from upstream to the one that they already have.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/dense.h"
#include "rescale.h"
#include "tensors.h"

namespace effdet {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kStep = 1 << 15;

template <typename scalar_t>
void rescale_part(void* values, int64_t begin, int64_t end, double ratio) {
  auto* at = static_cast<scalar_t*>(values) + begin;
  EFFDET_SIMD(rescale)(float_type<scalar_t>(), at, end - begin, static_cast<float>(ratio));
}

template <>
void rescale_part<double>(void* values, int64_t begin, int64_t end, double ratio) {
  for (int64_t i = begin; i < end; ++i) static_cast<double*>(values)[i] *= ratio;
}

template <typename scalar_t>
void rescale_all(Tensor& tensor, double ratio) {
  const int64_t count = tensor.numel(), steps = (count + kStep - 1) / kStep;
  void* values = tensor.mutable_data_ptr();
  torch::stable::parallel_for(0, steps, 1, [&](int64_t begin, int64_t end) {
    rescale_part<scalar_t>(values, begin * kStep, std::min(count, end * kStep), ratio);
  });
}

// effdet::rescale_
void rescale_(std::vector<Tensor> gradients, Tensor grad_output, Tensor grad_scale) {
  const double wanted = read_scalar("rescale_: grad_output", grad_output);
  const double present = read_scalar("rescale_: grad_scale", grad_scale);
  if (wanted == present) return;
  const double ratio = wanted / present;
  for (Tensor& tensor : gradients) {
    STD_TORCH_CHECK(tensor.is_cpu() && is_dense(tensor),
                    "rescale_: gradients must be dense and on the CPU");
    switch (tensor.scalar_type()) {
      case ScalarType::Double:
        rescale_all<double>(tensor, ratio);
        break;
      case ScalarType::Float:
        rescale_all<float>(tensor, ratio);
        break;
      case ScalarType::Half:
        rescale_all<torch::headeronly::Half>(tensor, ratio);
        break;
      case ScalarType::BFloat16:
        rescale_all<torch::headeronly::BFloat16>(tensor, ratio);
        break;
      default:
        STD_TORCH_CHECK(false, "rescale_: gradients must be float16, bfloat16, float32 or 64");
    }
  }
}

}  // namespace
}  // namespace effdet

STABLE_TORCH_LIBRARY_IMPL(effdet, CPU, library) {
  library.impl("rescale_", TORCH_BOX(&effdet::rescale_));
}
