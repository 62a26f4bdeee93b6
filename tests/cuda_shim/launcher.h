// SPDX-License-Identifier: Apache-2.0
// Stands for effdet/csrc/cuda/launch.h, whose launches go to a GPU.
#pragma once
#include <cuda_runtime.h>

namespace cuda_shim {

struct Launcher {
  // What kernels are told that they can have of dynamic shared memory; the rest is for the static.
  size_t dynamic_bytes = 180 * 1024;

  template <typename... Parameters>
  size_t max_dynamic_bytes(void (*)(Parameters...)) const {
    return dynamic_bytes;
  }

  template <typename... Parameters, typename... Arguments>
  void operator()(unsigned grid, unsigned block, size_t shared_bytes,
                  void (*kernel)(Parameters...), const Arguments&... arguments) const {
    launch(dim3(grid), dim3(block), shared_bytes, [=] { kernel(arguments...); });
  }
};

}  // namespace cuda_shim
