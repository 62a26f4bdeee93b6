// SPDX-License-Identifier: Apache-2.0
// Inner loop of the focal loss: a run of logits whose class is absent.
#pragma once
#include <cstdint>

#include "simd.h"

namespace effdet {

struct FocalRun {
  FloatType type;
  const void* logits;
  void* gradients;    // of the same type; null where none are wanted
  const float* keep;  // 0 where the anchor is ignored, else 1; null where none is
  int64_t count;
  float weight;  // 1 - alpha
  float gamma;
  float half_smoothing;
  float gradient_scale;
};

// Sum of the losses; writes the gradients times gradient_scale.
EFFDET_DECLARE_SIMD(double focal_negatives(const FocalRun& run))

}  // namespace effdet
