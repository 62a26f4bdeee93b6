// SPDX-License-Identifier: Apache-2.0
// The moving average of all tensors of a model in one parallel pass, on the CPU.
//
// The formula and the meaning of the arguments stand in effdet/ops/ema.py. Every element is
// computed by itself, so how the work is divided does not show in the result.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "../common/ema_pairs.h"
#include "ema.h"

namespace {

using namespace effdet;

// Fewer elements are not worth another thread.
constexpr int64_t kElementsPerThread = 1 << 15;

template <typename Average>
Average* at(char* start, int64_t index) {
  return reinterpret_cast<Average*>(start) + index;
}

template <typename Value>
const Value* at(const char* start, int64_t index) {
  return reinterpret_cast<const Value*>(start) + index;
}

// Moves the elements [begin, begin + count) of one pair.
void move(const EmaPair& pair, int64_t begin, int64_t count, double weight) {
  const float w = static_cast<float>(weight);
  char* average = pair.average;
  const char* value = pair.value;
  switch (pair.kind) {
    case EmaKind::float32:
      return EFFDET_SIMD(lerp_float32)(at<float>(average, begin), at<float>(value, begin), count,
                                       w);
    case EmaKind::float16:
      return EFFDET_SIMD(lerp_float16)(at<float>(average, begin), at<uint16_t>(value, begin), count,
                                       w);
    case EmaKind::bfloat16:
      return EFFDET_SIMD(lerp_bfloat16)(at<float>(average, begin), at<uint16_t>(value, begin),
                                        count, w);
    case EmaKind::float64:
      return EFFDET_SIMD(lerp_float64)(at<double>(average, begin), at<double>(value, begin), count,
                                       weight);
    case EmaKind::copy: {
      const int64_t size = pair.bytes / pair.count;
      std::memmove(average + begin * size, value + begin * size, count * size);
    }
  }
}

void move_all(const EmaPairs& pairs, double weight) {
  std::vector<int64_t> ends;  // elements of a pair and of all before it
  ends.reserve(pairs.size());
  int64_t total = 0;
  for (const EmaPair& pair : pairs) ends.push_back(total += pair.count);
  torch::stable::parallel_for(0, total, kElementsPerThread, [&](int64_t begin, int64_t end) {
    size_t i = std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin();
    for (; begin < end; ++i) {
      const int64_t last = std::min(end, ends[i]);
      move(pairs[i], begin - (ends[i] - pairs[i].count), last - begin, weight);
      begin = last;
    }
  });
}

// effdet::ema_update_
void ema_update_(std::vector<Tensor> averages, std::vector<Tensor> values, Tensor updates,
                 std::optional<Tensor> found_inf, double decay, bool joined) {
  STD_TORCH_CHECK(updates.is_cpu(), "ema_update_: updates must be on the device of the averages");
  check_ema_settings(updates, found_inf, decay);
  EmaPairs pairs(averages, values, updates, joined);
  if (found_inf && *static_cast<const float*>(found_inf->const_data_ptr()) != 0) return;
  auto* count = static_cast<int64_t*>(updates.mutable_data_ptr());
  const double t = std::max<int64_t>(*count, 0);
  move_all(pairs, std::max(1 - decay, 9 / (10 + t)));
  pairs.finish();
  *count = static_cast<int64_t>(static_cast<uint64_t>(*count) + 1);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CPU, library) {
  library.impl("ema_update_", TORCH_BOX(&ema_update_));
}
