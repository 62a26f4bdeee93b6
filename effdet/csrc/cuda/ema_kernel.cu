// SPDX-License-Identifier: Apache-2.0
// The moving average of all tensors of a model in one launch, on CUDA.
//
// The formula and the meaning of the arguments stand in effdet/ops/ema.py. Nothing is read on the
// host: the decay follows from the count on the device, and a skipped step is seen there.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "../common/ema_pairs.h"
#include "ema.cuh"

namespace {

using namespace effdet;

// effdet::ema_update_
void ema_update_(std::vector<Tensor> averages, std::vector<Tensor> values, Tensor updates,
                 std::optional<Tensor> found_inf, double decay, bool joined) {
  STD_TORCH_CHECK(updates.is_cuda(), "ema_update_: updates must be on the device of the averages");
  check_ema_settings(updates, found_inf, decay);
  torch::stable::accelerator::DeviceGuard guard(updates.get_device_index());
  EmaPairs pairs(averages, values, updates, joined);
  for (const EmaPair& pair : pairs)
    STD_TORCH_CHECK(pair.bytes <= kEmaMaxBytes, "ema_update_: an average has ", pair.bytes,
                    " bytes, more than ", kEmaMaxBytes);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(updates.get_device_index(), &stream));
  auto* state = static_cast<unsigned long long*>(updates.mutable_data_ptr());
  const float* skip = found_inf ? static_cast<const float*>(found_inf->const_data_ptr()) : nullptr;
  const EmaTables<kEmaCapacity> tables(pairs.begin(), pairs.end());
  for (const auto& table : tables.tables()) {
    const bool counts = table == tables.tables().back();
    ema_update<kEmaCapacity>
        <<<tables.num_blocks(*table), kEmaThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            *table, state, skip, decay, counts);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  pairs.finish();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) {
  library.impl("ema_update_", TORCH_BOX(&ema_update_));
}
