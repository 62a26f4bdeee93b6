// SPDX-License-Identifier: Apache-2.0
// The heads' outputs on the host: checks, memory layouts, the stream.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

namespace effdet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Whether [B, C, H, W] lies in memory as B H W C. Strides of dimensions of size 1 mean nothing.
inline bool is_channels_last(const Tensor& level) {
  const int64_t C = level.size(1), H = level.size(2), W = level.size(3);
  return (C <= 1 || level.stride(1) == 1) && (W <= 1 || level.stride(3) == C) &&
         (H <= 1 || level.stride(2) == C * W) &&
         (level.size(0) <= 1 || level.stride(0) == C * H * W);
}

// Checks levels [B, anchors * values, H, W] against the first one and the number of anchors, and
// copies those that a kernel cannot read: strides of neither layout, memory not aligned to 16
// bytes.
inline std::vector<Tensor> readable_levels(std::vector<Tensor> levels, int64_t values,
                                           int64_t batch, int64_t num_anchors, const char* name) {
  int64_t found = 0;
  for (Tensor& level : levels) {
    STD_TORCH_CHECK(level.dim() == 4 && level.size(0) == batch && level.size(1) % values == 0, name,
                    ": every level must be [B, anchors * ", values, ", H, W] with B = ", batch);
    STD_TORCH_CHECK(level.is_cuda() && level.scalar_type() == levels[0].scalar_type() &&
                        level.get_device_index() == levels[0].get_device_index(),
                    name, ": all levels must have one dtype and lie on one CUDA device");
    STD_TORCH_CHECK(level.size(1) * level.size(2) * level.size(3) < (int64_t{1} << 31), name,
                    ": an image must have fewer than 2^31 values in a level");
    found += level.size(1) / values * level.size(2) * level.size(3);
    if (!level.is_contiguous() && !is_channels_last(level)) {
      level = torch::stable::contiguous(level);
    }
    if (reinterpret_cast<uintptr_t>(level.const_data_ptr()) % 16 != 0) {
      level = torch::stable::clone(level);
    }
  }
  STD_TORCH_CHECK(found == num_anchors, name, ": the levels have ", found, " anchors, expected ",
                  num_anchors);
  return levels;
}

// Empty tensors in the memory layouts of the levels.
inline std::vector<Tensor> empty_gradients(const std::vector<Tensor>& levels, bool need_grad) {
  std::vector<Tensor> gradients;
  for (const Tensor& level : levels) {
    if (need_grad) gradients.push_back(torch::stable::empty_like(level));
  }
  return gradients;
}

// Checks a scalar that stays on the device.
inline void check_scalar(const Tensor& scalar, ScalarType dtype, const Tensor& like,
                         const char* name) {
  STD_TORCH_CHECK(scalar.numel() == 1 && scalar.scalar_type() == dtype && scalar.is_cuda() &&
                      scalar.get_device_index() == like.get_device_index(),
                  name,
                  " must be one number on the device of the levels, float64 for float64 "
                  "levels, else float32");
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

inline ScalarType loss_dtype(const Tensor& level) {
  return level.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace effdet
