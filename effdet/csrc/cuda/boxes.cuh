// SPDX-License-Identifier: Apache-2.0
// Box arithmetic on the device.
#pragma once
#include <cuda_runtime.h>

namespace effdet {

// xyxy, read and written as one vector of 16 bytes.
struct alignas(16) Box {
  float x1, y1, x2, y2;
};

// The functions with _rn in the name round each product and sum by itself. Without them the
// compiler forms fused multiply-adds, and the result is not PyTorch's to the last bit.
__device__ inline float box_area(const Box& box) {
  return __fmul_rn(__fsub_rn(box.x2, box.x1), __fsub_rn(box.y2, box.y1));
}

// A box with a NaN has a NaN area, so it does not matter that fminf and fmaxf leave NaN out.
__device__ inline float box_intersection(const Box& a, const Box& b) {
  const float width = __fsub_rn(fminf(a.x2, b.x2), fmaxf(a.x1, b.x1));
  const float height = __fsub_rn(fminf(a.y2, b.y2), fmaxf(a.y1, b.y1));
  return __fmul_rn(fmaxf(width, 0.f), fmaxf(height, 0.f));
}

__device__ inline float box_union(float area_a, float area_b, float intersection) {
  return __fsub_rn(__fadd_rn(area_a, area_b), intersection);
}

}  // namespace effdet
