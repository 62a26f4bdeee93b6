// SPDX-License-Identifier: Apache-2.0
// The moving average of all tensors of a model in one launch, on CUDA.
//
// The formula and the meaning of the arguments stand in effdet/ops/ema.py. Nothing is read on the
// host: the decay follows from the count on the device, and a skipped step is seen there.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "../common/ema_pairs.h"
#include "ema.cuh"
#include "launch.h"

namespace {

using namespace effdet;

// effdet::ema_update_
void ema_update_(std::vector<Tensor> averages, std::vector<Tensor> values, Tensor updates,
                 std::optional<Tensor> found_inf, double decay, bool joined) {
  STD_TORCH_CHECK(updates.is_cuda(), "ema_update_: updates must be on the device of the averages");
  check_ema_settings(updates, found_inf, decay);
  const Launcher launch(updates);
  EmaPairs pairs(averages, values, updates, joined);
  for (const EmaPair& pair : pairs)
    STD_TORCH_CHECK(pair.bytes <= kEmaMaxBytes, "ema_update_: an average has ", pair.bytes,
                    " bytes, more than ", kEmaMaxBytes);
  const EmaTables<kEmaCapacity> tables(pairs.begin(), pairs.end());
  launch_ema_update(launch, tables, writable<unsigned long long>(updates),
                    found_inf ? read_only<float>(*found_inf) : nullptr, decay);
  pairs.finish();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) {
  library.impl("ema_update_", TORCH_BOX(&ema_update_));
}
