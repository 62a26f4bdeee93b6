// SPDX-License-Identifier: Apache-2.0
// Stands for effdet/csrc/cuda/launch.h, whose launches go to a GPU.
#pragma once
#include <cuda_runtime.h>

namespace cuda_shim {

struct Launcher {
  template <typename... Parameters, typename... Arguments>
  void operator()(unsigned grid, unsigned block, size_t shared_bytes,
                  void (*kernel)(Parameters...), const Arguments&... arguments) const {
    launch(dim3(grid), dim3(block), shared_bytes, [=] { kernel(arguments...); });
  }
};

}  // namespace cuda_shim
