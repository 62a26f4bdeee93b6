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

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Makes the tensor's device the current one while it lives.
class Launcher {
 public:
  explicit Launcher(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&max_shared_, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                          tensor.get_device_index()));
  }

  // Bytes of dynamic shared memory that a block of the kernel can have.
  template <typename... Parameters>
  size_t max_dynamic_bytes(void (*kernel)(Parameters...)) const {
    cudaFuncAttributes attributes{};
    STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
    return static_cast<size_t>(max_shared_) - attributes.sharedSizeBytes;
  }

  template <typename... Parameters, typename... Arguments>
  void operator()(unsigned grid, unsigned block, size_t dynamic_bytes,
                  void (*kernel)(Parameters...), const Arguments&... arguments) const {
    if (dynamic_bytes > 0) {
      // The limit belongs to the kernel, for all threads of the process. It is always set to the
      // same number: to what this launch needs, it could be too low for another one under way.
      STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(max_dynamic_bytes(kernel))));
    }
    kernel<<<grid, block, dynamic_bytes, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
  int max_shared_ = 0;
};

// The elements in the same order, at an address that vectors of 16 bytes can be read from.
inline Tensor aligned_as_it_is(const Tensor& tensor) {
  const bool fits = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  return fits ? tensor : torch::stable::clone(tensor);
}

// The tensor, contiguous and at such an address.
inline Tensor aligned(const Tensor& tensor) {
  return aligned_as_it_is(torch::stable::contiguous(tensor));
}

inline bool on_device_of(const Tensor& tensor, const Tensor& like) {
  return tensor.is_cuda() && tensor.get_device_index() == like.get_device_index();
}

template <typename T>
const T* read_only(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* writable(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace effdet
