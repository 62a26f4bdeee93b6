// SPDX-License-Identifier: Apache-2.0
// The pieces of work of the moving average.
#pragma once
#include <cstdint>

namespace effdet {

// How an average follows its values. A float32 average follows float32 and 16-bit values, a float64
// average float64 values; integers are copied.
enum class EmaKind { float32, float16, bfloat16, float64, copy };

// An average and its values, both without gaps and in the same order.
struct EmaPair {
  EmaKind kind;
  char* average;
  const char* value;
  int64_t count;  // elements
  int64_t bytes;  // of the average
};

}  // namespace effdet
