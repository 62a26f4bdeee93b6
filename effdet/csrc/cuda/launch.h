// SPDX-License-Identifier: Apache-2.0
// How the operators launch their kernels: on the device of a tensor, on PyTorch's current stream.
#pragma once
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace effdet {

// Makes the tensor's device the current one while it lives.
class Launcher {
 public:
  explicit Launcher(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&max_shared_, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                          tensor.get_device_index()));
  }

  // Bytes of shared memory, static and dynamic, that a block can have.
  size_t max_shared_bytes() const { return max_shared_; }

  template <typename... Parameters, typename... Arguments>
  void operator()(unsigned grid, unsigned block, size_t shared_bytes, void (*kernel)(Parameters...),
                  const Arguments&... arguments) const {
    if (shared_bytes > kSharedBytesWithoutAsking) {
      STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(shared_bytes)));
    }
    kernel<<<grid, block, shared_bytes, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  // What every kernel may have is 48 KB in all; the rest is room for its static shared memory.
  static constexpr size_t kSharedBytesWithoutAsking = 24 * 1024;

  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
  int max_shared_ = 0;
};

// The tensor, contiguous and at an address that vectors of 16 bytes can be read from.
inline torch::stable::Tensor aligned(const torch::stable::Tensor& tensor) {
  torch::stable::Tensor result = torch::stable::contiguous(tensor);
  const bool fits = reinterpret_cast<uintptr_t>(result.const_data_ptr()) % 16 == 0;
  return fits ? result : torch::stable::clone(result);
}

template <typename T>
const T* read_only(const torch::stable::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* writable(const torch::stable::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace effdet
