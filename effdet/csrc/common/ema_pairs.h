// SPDX-License-Identifier: Apache-2.0
// The arguments of effdet::ema_update_, checked and brought into one form, for CPU and CUDA.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "codes.h"
#include "dense.h"
#include "ema_pair.h"

namespace effdet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// All pairs that hold anything, by rising address of the average.
class EmaPairs {
 public:
  EmaPairs(const std::vector<Tensor>& averages, const std::vector<Tensor>& values,
           const Tensor& updates, bool joined) {
    pairs_.reserve(values.size());
    on_cpu_ = updates.is_cpu();
    if (joined)
      split(averages, values, updates);
    else
      pair(averages, values, updates);
    const auto before = [](const EmaPair& a, const EmaPair& b) { return a.average < b.average; };
    if (!std::is_sorted(pairs_.begin(), pairs_.end(), before))
      std::sort(pairs_.begin(), pairs_.end(), before);
    for (size_t i = 1; i < pairs_.size(); ++i)
      STD_TORCH_CHECK(pairs_[i - 1].average + pairs_[i - 1].bytes <= pairs_[i].average,
                      "ema_update_: averages must not share memory");
  }

  const EmaPair* begin() const { return pairs_.data(); }
  const EmaPair* end() const { return pairs_.data() + pairs_.size(); }
  size_t size() const { return pairs_.size(); }
  const EmaPair& operator[](size_t i) const { return pairs_[i]; }

  // To be called after the update: writes back the averages that were copied.
  void finish() {
    for (auto& [average, dense] : written_back_) torch::stable::copy_(average, dense);
  }

 private:
  // What is left of a buffer with the averages of one dtype.
  struct Buffer {
    ScalarType dtype;
    char* next;
    int64_t bytes;
  };

  void pair(const std::vector<Tensor>& averages, const std::vector<Tensor>& values,
            const Tensor& updates) {
    STD_TORCH_CHECK(averages.size() == values.size(), "ema_update_: ", averages.size(),
                    " averages but ", values.size(), " values");
    for (size_t i = 0; i < averages.size(); ++i) {
      check(averages[i], values[i], updates, i);
      if (averages[i].numel() > 0) add(averages[i], values[i], i);
    }
  }

  void split(const std::vector<Tensor>& averages, const std::vector<Tensor>& values,
             const Tensor& updates) {
    std::vector<Buffer> buffers;
    for (const Tensor& tensor : averages) {
      STD_TORCH_CHECK(tensor.dim() == 1 && tensor.is_contiguous() && same_device(tensor, updates),
                      "ema_update_: joined averages must be 1-D, contiguous, on one device");
      for (const Buffer& other : buffers)
        STD_TORCH_CHECK(other.dtype != tensor.scalar_type(),
                        "ema_update_: joined averages must have different dtypes");
      buffers.push_back({tensor.scalar_type(), static_cast<char*>(tensor.mutable_data_ptr()),
                         tensor.numel() * static_cast<int64_t>(tensor.element_size())});
    }
    for (size_t i = 0; i < values.size(); ++i) {
      STD_TORCH_CHECK(same_device(values[i], updates), "ema_update_: values[", i,
                      "] and updates must be on one device");
      const auto dtype = average_dtype(values[i].scalar_type());
      const auto buffer = std::find_if(buffers.begin(), buffers.end(),
                                       [&](const Buffer& b) { return b.dtype == dtype; });
      STD_TORCH_CHECK(buffer != buffers.end(), "ema_update_: no average for the dtype of values[",
                      i, "]");
      if (values[i].numel() > 0) take(*buffer, values[i], i);
    }
  }

  // Adds a pair of a value and the next place in the buffer.
  void take(Buffer& buffer, const Tensor& value, size_t index) {
    const Tensor* dense = &value;
    if (!is_dense(value.sizes(), value.strides())) {
      copies_.push_back(torch::stable::empty_like(value));
      torch::stable::copy_(copies_.back(), value);
      dense = &copies_.back();
    }
    const auto kind = kind_of(buffer.dtype, value.scalar_type());
    const int64_t size = kind == EmaKind::float16 || kind == EmaKind::bfloat16
                             ? static_cast<int64_t>(sizeof(float))
                             : static_cast<int64_t>(value.element_size());
    const int64_t bytes = value.numel() * size;
    STD_TORCH_CHECK(bytes <= buffer.bytes, "ema_update_: the average of values[", index,
                    "] is beyond its buffer");
    pairs_.push_back({*kind, buffer.next, static_cast<const char*>(dense->const_data_ptr()),
                      value.numel(), bytes});
    const int64_t step =
        std::min(buffer.bytes, (bytes + kEmaAlignment - 1) / kEmaAlignment * kEmaAlignment);
    buffer.next += step;
    buffer.bytes -= step;
  }

  void check(const Tensor& average, const Tensor& value, const Tensor& updates,
             size_t index) const {
    STD_TORCH_CHECK(kind_of(average.scalar_type(), value.scalar_type()),
                    "ema_update_: dtypes of averages[", index, "] and values[", index,
                    "] do not fit");
    STD_TORCH_CHECK(same_device(average, updates) && same_device(value, updates),
                    "ema_update_: averages[", index, "], values[", index,
                    "] and updates must be on one device");
    STD_TORCH_CHECK(equal(average.sizes(), value.sizes()), "ema_update_: shapes of averages[",
                    index, "] and values[", index, "] differ");
  }

  // Adds a pair that fits, with copies in place of tensors with gaps or of another order. The
  // tensors given outlive this object.
  void add(const Tensor& average, const Tensor& value, size_t index) {
    const auto sizes = average.sizes(), strides = average.strides();
    if (!is_dense(sizes, strides)) {
      STD_TORCH_CHECK(!overlaps(sizes, strides), "ema_update_: averages[", index,
                      "] must not overlap itself");
      written_back_.emplace_back(average, torch::stable::contiguous(average));
      const auto& dense = written_back_.back().second;
      copies_.push_back(torch::stable::contiguous(value));
      return push(dense, copies_.back());
    }
    if (same_order(sizes, strides, value.strides())) return push(average, value);
    copies_.push_back(torch::stable::empty_like(average));
    torch::stable::copy_(copies_.back(), value);
    push(average, copies_.back());
  }

  void push(const Tensor& average, const Tensor& value) {
    pairs_.push_back({*kind_of(average.scalar_type(), value.scalar_type()),
                      static_cast<char*>(average.mutable_data_ptr()),
                      static_cast<const char*>(value.const_data_ptr()), average.numel(),
                      average.numel() * static_cast<int64_t>(average.element_size())});
  }

  static ScalarType average_dtype(ScalarType value) {
    const bool is_half = value == ScalarType::Half || value == ScalarType::BFloat16;
    return is_half ? ScalarType::Float : value;
  }

  static std::optional<EmaKind> kind_of(ScalarType average, ScalarType value) {
    switch (average) {
      case ScalarType::Float:
        if (value == ScalarType::Float) return EmaKind::float32;
        if (value == ScalarType::Half) return EmaKind::float16;
        if (value == ScalarType::BFloat16) return EmaKind::bfloat16;
        return std::nullopt;
      case ScalarType::Double:
        return value == ScalarType::Double ? std::optional(EmaKind::float64) : std::nullopt;
      case ScalarType::Bool:
      case ScalarType::Byte:
      case ScalarType::Char:
      case ScalarType::Short:
      case ScalarType::Int:
      case ScalarType::Long:
        return value == average ? std::optional(EmaKind::copy) : std::nullopt;
      default:
        return std::nullopt;
    }
  }

  bool same_device(const Tensor& tensor, const Tensor& updates) const {
    if (on_cpu_) return tensor.is_cpu();
    return tensor.is_cuda() && tensor.get_device_index() == updates.get_device_index();
  }

  static bool equal(Sizes a, Sizes b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
  }

  // Whether the elements lie in memory in the same order. The stride of a size of 1 says nothing.
  static bool same_order(Sizes sizes, Sizes a, Sizes b) {
    for (size_t d = 0; d < sizes.size(); ++d)
      if (sizes[d] > 1 && a[d] != b[d]) return false;
    return true;
  }

  // Whether two elements may share memory: true for any but plainly nested strides.
  static bool overlaps(Sizes sizes, Sizes strides) {
    int64_t span = 0;
    for (const auto& [stride, size] : dimensions_by_stride(sizes, strides)) {
      if (stride <= span) return true;
      span += stride * (size - 1);
    }
    return false;
  }

  std::vector<EmaPair> pairs_;
  std::vector<Tensor> copies_;
  std::vector<std::pair<Tensor, Tensor>> written_back_;  // an average and its dense copy
  bool on_cpu_;
};

// The rest of what must hold: `updates` and `found_inf` are read without further checks.
inline void check_ema_settings(const Tensor& updates, const std::optional<Tensor>& found_inf,
                               double decay) {
  STD_TORCH_CHECK(updates.scalar_type() == ScalarType::Long && updates.dim() == 1 &&
                      updates.size(0) == 2 && updates.is_contiguous(),
                  "ema_update_: updates must be int64 [2], contiguous");
  STD_TORCH_CHECK(decay >= 0 && decay <= 1, "ema_update_: decay must be in [0, 1], got ", decay);
  if (!found_inf) return;
  STD_TORCH_CHECK(found_inf->scalar_type() == ScalarType::Float && found_inf->numel() == 1 &&
                      found_inf->is_cpu() == updates.is_cpu() &&
                      found_inf->is_cuda() == updates.is_cuda() &&
                      found_inf->get_device_index() == updates.get_device_index(),
                  "ema_update_: found_inf must be one float32 on the device of updates");
}

}  // namespace effdet
