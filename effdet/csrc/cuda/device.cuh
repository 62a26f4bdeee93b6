// SPDX-License-Identifier: Apache-2.0
// What several kernels share on the device. Like every .cuh here it includes no header of torch, so
// that tests/cuda_shim can compile it for the CPU.
#pragma once
#include <cuda_runtime.h>

namespace effdet {

// The shared memory whose size the launch gives, aligned to 16 bytes.
template <typename T>
__device__ T* dynamic_shared_memory() {
#ifdef CUDA_SHIM
  return reinterpret_cast<T*>(cuda_shim::machine.dynamic_memory);
#else
  extern __shared__ __align__(16) unsigned char effdet_dynamic_shared_memory[];
  return reinterpret_cast<T*>(effdet_dynamic_shared_memory);
#endif
}

}  // namespace effdet
