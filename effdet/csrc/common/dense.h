// SPDX-License-Identifier: Apache-2.0
// Which elements of a tensor lie where, from its sizes and strides.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace effdet {

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

// Dimensions of more than one element as (stride, size), the innermost first.
inline std::vector<std::pair<int64_t, int64_t>> dimensions_by_stride(Sizes sizes, Sizes strides) {
  std::vector<std::pair<int64_t, int64_t>> dimensions;
  for (size_t d = 0; d < sizes.size(); ++d)
    if (sizes[d] != 1) dimensions.emplace_back(strides[d], sizes[d]);
  std::sort(dimensions.begin(), dimensions.end());
  return dimensions;
}

// Whether the elements fill their memory without gaps or overlaps, in any order of the dimensions.
inline bool is_dense(Sizes sizes, Sizes strides) {
  int64_t expected = 1;
  size_t d = sizes.size();
  while (d > 0 && (sizes[d - 1] == 1 || strides[d - 1] == expected)) expected *= sizes[--d];
  if (d == 0) return true;  // contiguous, as most are
  if (std::find(sizes.begin(), sizes.end(), 0) != sizes.end()) return true;
  expected = 1;
  for (const auto& [stride, size] : dimensions_by_stride(sizes, strides)) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

inline bool is_dense(const torch::stable::Tensor& tensor) {
  return is_dense(tensor.sizes(), tensor.strides());
}

}  // namespace effdet
