// SPDX-License-Identifier: Apache-2.0
// Huber loss of the box deltas and its gradient in one pass over the levels where they lie.
//
// The formulas and the meaning of the arguments stand in effdet/ops/box_loss.py. Few anchors have a
// box, so what is done for all of them is only to read the match and to write a zero gradient; the
// deltas are read, and the targets computed, for matched anchors alone. Every block leaves one
// partial sum, and mean_of_partial_sums adds them in order.
#pragma once
#include "../common/codes.h"
#include "levels.cuh"

namespace effdet {

constexpr int kBoxThreads = 256;
constexpr unsigned kBoxAnchors = 8;  // that a thread takes in one block

template <typename compute_t>
struct BoxArguments {
  LossLevels levels;
  const float4* anchors = nullptr;  // [A], xyxy
  const float4* boxes = nullptr;    // [B, M], xyxy
  const int* matched = nullptr;     // [B, A]
  int64_t num_boxes = 0;            // M
  const compute_t* normalizer = nullptr;
  const compute_t* grad_scale = nullptr;
  compute_t delta = 0;
  double* partial_sums = nullptr;  // a tile each
};

// Offset and logarithm of the size ratio along one axis, as effdet.boxes.encode_boxes. A halved sum
// is exact, so the result does not depend on which products the compiler joins with sums.
__device__ __forceinline__ float2 encode_axis(float low, float high, float anchor_low,
                                              float anchor_high) {
  float size = high - low, anchor_size = anchor_high - anchor_low;
  size = size < kMinSize ? kMinSize : size;  // unlike fmaxf keeps NaN
  anchor_size = anchor_size < kMinSize ? kMinSize : anchor_size;
  const float offset = (low + high) * 0.5f - (anchor_low + anchor_high) * 0.5f;
  return make_float2(offset / anchor_size, logf(size / anchor_size));
}

// The target (tx, ty, tw, th) of an anchor; NaN where the index is out of range.
template <typename compute_t>
__device__ __forceinline__ float4 box_target(const BoxArguments<compute_t>& b, unsigned image,
                                             int64_t anchor_index, int box_index) {
  if (box_index >= b.num_boxes) {
    const float not_a_number = nanf("");
    return make_float4(not_a_number, not_a_number, not_a_number, not_a_number);
  }
  const float4 box = b.boxes[image * b.num_boxes + box_index], anchor = b.anchors[anchor_index];
  const float2 x = encode_axis(box.x, box.z, anchor.x, anchor.z);
  const float2 y = encode_axis(box.y, box.w, anchor.y, anchor.w);
  return make_float4(x.x, y.x, x.y, y.y);
}

// Loss of one coordinate; `slope` gets its derivative.
template <typename compute_t>
__device__ __forceinline__ compute_t huber_term(compute_t value, float target, compute_t delta,
                                                compute_t& slope) {
  slope = 0;
  if (target == 0) return 0;
  const compute_t error = value - static_cast<compute_t>(target), size = fabs(error);
  const bool linear = size >= delta;  // false for NaN, which then propagates
  slope = linear ? copysign(delta, error) : error;
  return linear ? delta * (size - delta / 2) : error * error / 2;
}

template <typename scalar_t>
struct __align__(4 * sizeof(scalar_t) < 16 ? 4 * sizeof(scalar_t) : 16) FourValues {
  scalar_t value[4];
};

// Loss of the anchor's four coordinates, `stride` apart in memory; writes their gradients.
// kTogether: they are side by side, and are read and written at once.
template <bool kTogether, typename scalar_t, typename compute_t>
__device__ __forceinline__ compute_t box_terms(const BoxArguments<compute_t>& b,
                                               const Tile<scalar_t>& tile, unsigned first,
                                               unsigned stride, unsigned row, compute_t scale) {
  const int box_index = b.matched[tile.first_row + row];
  FourValues<scalar_t> out{};
  compute_t sum = 0;
  if (box_index >= 0) {
    const int64_t anchor = tile.first_row - tile.image * b.levels.num_anchors + row;
    const float4 target = box_target(b, tile.image, anchor, box_index);
    const float targets[4] = {target.x, target.y, target.z, target.w};
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      compute_t slope;
      const compute_t value = Storage<scalar_t>::load(tile.values + first + c * stride);
      sum += huber_term(value, targets[c], b.delta, slope);
      Storage<scalar_t>::store(&out.value[c], slope * scale);
    }
  }
  if (tile.gradients == nullptr) return sum;
  if constexpr (kTogether) {
    *reinterpret_cast<FourValues<scalar_t>*>(tile.gradients + first) = out;
  } else {
#pragma unroll
    for (int c = 0; c < 4; ++c) tile.gradients[first + c * stride] = out.value[c];
  }
  return sum;
}

template <typename scalar_t, Layout kLayout>
__global__ void __launch_bounds__(kBoxThreads)
    box_loss(const __grid_constant__ BoxArguments<typename Storage<scalar_t>::compute_t> b) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  const auto tile = tile_of_block<scalar_t>(b.levels);
  const compute_t scale = *b.grad_scale / *b.normalizer;
  const unsigned num_anchors = tile.positions * tile.anchors;
  const unsigned first = tile.number * (kBoxThreads * kBoxAnchors);
  const unsigned last = min(first + kBoxThreads * kBoxAnchors, num_anchors);
  double sum = 0;
  for (unsigned i = first + threadIdx.x; i < last; i += kBoxThreads) {
    if constexpr (kLayout == Layout::channels_last) {
      sum += box_terms<true>(b, tile, 4 * i, 1, i, scale);
    } else {
      // Neighbouring threads take neighbouring positions, which are neighbours in memory.
      const unsigned anchor = i / tile.positions, position = i - anchor * tile.positions;
      sum += box_terms<false>(b, tile, 4 * anchor * tile.positions + position, tile.positions,
                              position * tile.anchors + anchor, scale);
    }
  }
  sum = block_sum<kBoxThreads>(sum);
  if (threadIdx.x == 0) b.partial_sums[blockIdx.x] = sum;
}

// --- on the host ---

// Adds a level of `batch` images, at a multiple of 16 bytes.
template <typename compute_t>
void add_box_level(BoxArguments<compute_t>& b, const LevelShape& shape, const void* deltas,
                   void* gradients, unsigned batch) {
  b.levels.add(shape, deltas, gradients, batch, shape.positions * shape.anchors,
               kBoxThreads * kBoxAnchors);
}

// All launches. `by_layout`: the levels of each layout, at its number. `partial_sums`: one for each
// of their tiles.
template <typename scalar_t, typename Launch, typename compute_t>
void launch_box_loss(const Launch& launch, BoxArguments<compute_t> (&by_layout)[2],
                     double* partial_sums, compute_t* loss) {
  int64_t num_tiles = 0;
  for (const Layout layout : {Layout::channels_last, Layout::contiguous}) {
    BoxArguments<compute_t>& b = by_layout[static_cast<int>(layout)];
    if (b.levels.num_tiles == 0) continue;
    b.partial_sums = partial_sums + num_tiles;
    num_tiles += b.levels.num_tiles;
    const auto kernel = layout == Layout::channels_last ? box_loss<scalar_t, Layout::channels_last>
                                                        : box_loss<scalar_t, Layout::contiguous>;
    launch(b.levels.num_tiles, kBoxThreads, 0, kernel, b);
  }
  launch(1, kSumThreads, 0, mean_of_partial_sums<compute_t>, partial_sums, num_tiles,
         by_layout[0].normalizer, loss);
}

}  // namespace effdet
