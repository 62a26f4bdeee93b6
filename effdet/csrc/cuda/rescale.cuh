// SPDX-License-Identifier: Apache-2.0
// Gradients *= grad_output / grad_scale, all tensors in one launch; nothing where the ratio is 1,
// which only the device knows (effdet/ops/rescale.py).
#pragma once
#include "device.cuh"

namespace effdet {

constexpr int kRescaleThreads = 256;
// Enough to fill any GPU; where the ratio is 1 they all end at once.
constexpr unsigned kMaxRescaleBlocks = 2048;
constexpr int kMaxRescaleTensors = 32;

template <typename compute_t>
struct RescaleArguments {
  void* values[kMaxRescaleTensors];
  int64_t sizes[kMaxRescaleTensors];
  int count = 0;
  const compute_t* grad_output = nullptr;
  const compute_t* grad_scale = nullptr;
};

template <typename scalar_t>
__global__ void __launch_bounds__(kRescaleThreads)
    rescale(const __grid_constant__ RescaleArguments<typename Storage<scalar_t>::compute_t> r) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  constexpr int kVector = Storage<scalar_t>::kVector;
  const compute_t ratio = *r.grad_output / *r.grad_scale;
  if (ratio == 1) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRescaleThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRescaleThreads;
  for (int t = 0; t < r.count; ++t) {
    auto* values = static_cast<scalar_t*>(r.values[t]);
    const bool aligned = reinterpret_cast<uintptr_t>(values) % 16 == 0;
    const int64_t num_vectors = aligned ? r.sizes[t] / kVector : 0;
    for (int64_t v = first; v < num_vectors; v += step) {
      compute_t vector[kVector];
      Storage<scalar_t>::load_vector(values + v * kVector, vector);
#pragma unroll
      for (int j = 0; j < kVector; ++j) vector[j] *= ratio;
      Storage<scalar_t>::store_vector(values + v * kVector, vector);
    }
    for (int64_t i = num_vectors * kVector + first; i < r.sizes[t]; i += step) {
      Storage<scalar_t>::store(values + i, Storage<scalar_t>::load(values + i) * ratio);
    }
  }
}

}  // namespace effdet
