// SPDX-License-Identifier: Apache-2.0
// Boxes from the heads' deltas.
#pragma once
#include "../common/codes.h"
#include "boxes.cuh"
#include "candidate_levels.cuh"

namespace effdet {

// effdet.boxes.decode_boxes for one coordinate of the centre; exp is the only inexact step.
__device__ inline void decode_axis(float offset, float log_ratio, float low, float high,
                                   float& decoded_low, float& decoded_high) {
  const float size = __fsub_rn(high, low);
  const float centre = __fadd_rn(__fmul_rn(offset, size), __fmul_rn(__fadd_rn(low, high), 0.5f));
  // Not fminf, which would lose a NaN.
  const float limited = log_ratio > kMaxLogRatio ? kMaxLogRatio : log_ratio;
  const float half = __fmul_rn(__fmul_rn(expf(limited), size), 0.5f);
  decoded_low = __fsub_rn(centre, half);
  decoded_high = __fadd_rn(centre, half);
}

// The box of anchor `in_level` of the level.
template <typename scalar_t>
__device__ Box decode_anchor(const CandidateLevel& level, uint32_t image, uint32_t in_level,
                             const Box& anchor) {
  const uint32_t location = in_level / level.anchors, slot = in_level % level.anchors;
  const bool last = level.deltas_layout == Layout::channels_last;
  const size_t step = last ? 1 : level.positions;
  const size_t start = last ? size_t{in_level} * 4 : size_t{slot} * 4 * level.positions + location;
  const size_t image_size = size_t{level.positions} * level.anchors * 4;
  const scalar_t* deltas = static_cast<const scalar_t*>(level.deltas) + image * image_size + start;
  const float tx = Storage<scalar_t>::load(deltas);
  const float ty = Storage<scalar_t>::load(deltas + step);
  const float tw = Storage<scalar_t>::load(deltas + 2 * step);
  const float th = Storage<scalar_t>::load(deltas + 3 * step);
  Box box;
  decode_axis(tx, tw, anchor.x1, anchor.x2, box.x1, box.x2);
  decode_axis(ty, th, anchor.y1, anchor.y2, box.y1, box.y2);
  return box;
}

__device__ inline bool is_finite(const Box& box) {
  return isfinite(box.x1) && isfinite(box.y1) && isfinite(box.x2) && isfinite(box.y2);
}

}  // namespace effdet
