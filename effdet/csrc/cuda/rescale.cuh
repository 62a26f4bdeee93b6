// SPDX-License-Identifier: Apache-2.0
// Gradients *= grad_output / grad_scale, all tensors in one launch; nothing where the two are
// equal, which only the device knows (effdet/ops/rescale.py).
#pragma once
#include <algorithm>

#include "device.cuh"

namespace effdet {

constexpr int kRescaleThreads = 256;
// Enough to fill any GPU; where nothing is to be done they all end at once.
constexpr unsigned kMaxRescaleBlocks = 2048;
constexpr int kMaxRescaleTensors = 32;

template <typename compute_t>
struct RescaleArguments {
  void* values[kMaxRescaleTensors];
  int64_t sizes[kMaxRescaleTensors];
  int count = 0;
  int64_t largest = 0;  // size
  const compute_t* grad_output = nullptr;
  const compute_t* grad_scale = nullptr;
};

template <typename scalar_t>
__global__ void __launch_bounds__(kRescaleThreads)
    rescale(const __grid_constant__ RescaleArguments<typename Storage<scalar_t>::compute_t> r) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  constexpr int kVector = Storage<scalar_t>::kVector;
  // Compared before the division: where both are 0 the gradients are 0 already, not 0 / 0.
  if (*r.grad_output == *r.grad_scale) return;
  const compute_t ratio = *r.grad_output / *r.grad_scale;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRescaleThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRescaleThreads;
  for (int t = 0; t < r.count; ++t) {
    auto* values = static_cast<scalar_t*>(r.values[t]);
    const bool aligned = reinterpret_cast<uintptr_t>(values) % 16 == 0;
    const int64_t num_vectors = aligned ? r.sizes[t] / kVector : 0;
    for (int64_t v = first; v < num_vectors; v += step) {
      compute_t vector[kVector];
      load_vector(values + v * kVector, vector);
#pragma unroll
      for (int j = 0; j < kVector; ++j) vector[j] *= ratio;
      store_vector(values + v * kVector, vector);
    }
    for (int64_t i = num_vectors * kVector + first; i < r.sizes[t]; i += step) {
      Storage<scalar_t>::store(values + i, Storage<scalar_t>::load(values + i) * ratio);
    }
  }
}

// --- on the host ---

// There is room for kMaxRescaleTensors.
template <typename compute_t>
void add_rescale_tensor(RescaleArguments<compute_t>& r, void* values, int64_t size) {
  r.values[r.count] = values;
  r.sizes[r.count++] = size;
  r.largest = std::max(r.largest, size);
}

template <typename scalar_t, typename Launch, typename compute_t>
void launch_rescale(const Launch& launch, const RescaleArguments<compute_t>& r) {
  if (r.largest == 0) return;
  const int64_t per_block = int64_t{kRescaleThreads} * Storage<scalar_t>::kVector;
  const int64_t blocks = std::min<int64_t>((r.largest - 1) / per_block + 1, kMaxRescaleBlocks);
  launch(static_cast<unsigned>(blocks), kRescaleThreads, 0, rescale<scalar_t>, r);
}

}  // namespace effdet
