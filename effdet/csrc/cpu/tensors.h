// SPDX-License-Identifier: Apache-2.0
// Small things that the torch side of several kernels needs.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace effdet {

// The inner loops' name for float, Half or BFloat16.
template <typename scalar_t>
constexpr FloatType float_type() {
  if (std::is_same_v<scalar_t, torch::headeronly::BFloat16>) return FloatType::bfloat16;
  if (std::is_same_v<scalar_t, torch::headeronly::Half>) return FloatType::float16;
  return FloatType::float32;
}

inline std::vector<torch::stable::Tensor> empty_like_if(
    bool wanted, const std::vector<torch::stable::Tensor>& tensors) {
  std::vector<torch::stable::Tensor> made;
  for (const auto& tensor : tensors)
    if (wanted) made.push_back(torch::stable::empty_like(tensor));
  return made;
}

// The value of a one-element float32 or float64 tensor.
inline double read_scalar(const char* name, const torch::stable::Tensor& tensor) {
  using torch::headeronly::ScalarType;
  const auto type = tensor.scalar_type();
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.numel() == 1 &&
                      (type == ScalarType::Float || type == ScalarType::Double),
                  name, " must be one float32 or float64 on the CPU");
  return type == ScalarType::Double ? *static_cast<const double*>(tensor.const_data_ptr())
                                    : *static_cast<const float*>(tensor.const_data_ptr());
}

// A scalar tensor of the dtype of `like`, float32 or float64; beyond float32 it is infinite.
inline torch::stable::Tensor make_scalar(const torch::stable::Tensor& like, double value) {
  const bool is_double = like.scalar_type() == torch::headeronly::ScalarType::Double;
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (!is_double && std::abs(value) > kLargest)
    value = std::copysign(std::numeric_limits<double>::infinity(), value);
  torch::stable::Tensor scalar = torch::stable::new_empty(like, {}, like.scalar_type());
  torch::stable::fill_(scalar, value);
  return scalar;
}

}  // namespace effdet
