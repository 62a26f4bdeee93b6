// SPDX-License-Identifier: Apache-2.0
// What the losses share on the host: their scalars, gradients and number types.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <vector>

#include "launch.h"

namespace effdet {

inline ScalarType loss_dtype(const Tensor& level) {
  return level.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Checks a scalar that stays on the device.
inline void check_scalar(const Tensor& scalar, const Tensor& level, const char* name) {
  STD_TORCH_CHECK(scalar.numel() == 1 && scalar.scalar_type() == loss_dtype(level) &&
                      on_device_of(scalar, level),
                  name,
                  " must be one number on the device of the levels, float64 for float64 "
                  "levels, else float32");
}

// Empty tensors in the memory layouts of the levels.
inline std::vector<Tensor> empty_gradients(const std::vector<Tensor>& levels, bool need_grad) {
  std::vector<Tensor> gradients;
  for (const Tensor& level : levels) {
    if (need_grad) gradients.push_back(torch::stable::empty_like(level));
  }
  return gradients;
}

// Where the gradient of level `l` goes; null where none is wanted.
inline void* gradient_of(const std::vector<Tensor>& gradients, size_t l) {
  return gradients.empty() ? nullptr : gradients[l].mutable_data_ptr();
}

// Calls `run` with a zero of the type that the kernels store `tensor` in.
template <typename Run>
void with_storage(const Tensor& tensor, const char* name, Run run) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return run(double{});
    case ScalarType::Float:
      return run(float{});
    case ScalarType::Half:
      return run(__half{});
    case ScalarType::BFloat16:
      return run(__nv_bfloat16{});
    default:
      STD_TORCH_CHECK(false, name, " must be float16, bfloat16, float32 or float64");
  }
}

}  // namespace effdet
