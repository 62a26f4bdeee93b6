// SPDX-License-Identifier: Apache-2.0
// Huber loss of the box offsets and its gradient on the CPU, computed at the matched anchors only.
//
// The definition and the meaning of the arguments stand in effdet/ops/box_loss.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

#include "../common/codes.h"
#include "levels.h"
#include "tensors.h"

namespace effdet {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Anchors whose terms one task adds up. The tasks do not depend on the number of threads and their
// sums are added in order, so the loss is the same to the last bit on one thread or many.
constexpr int64_t kAnchorsPerTask = 8192;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Inputs {
  const float* anchors;    // [A, 4]
  const float* boxes;      // [B, M, 4]
  const int32_t* matched;  // [B, A]
  int64_t num_images, num_boxes, num_anchors;
};

template <typename compute_t>
struct Settings {
  compute_t delta, gradient_scale;
};

struct Side {
  float centre, size;
};

Side side(float low, float high) {
  const float size = high - low;
  return {(low + high) / 2, size < kMinSize ? kMinSize : size};  // a NaN stays
}

// (tx, ty, tw, th) of a box against an anchor, both xyxy: encode_boxes of effdet/boxes.py.
std::array<float, 4> encode_box(const float* box, const float* anchor) {
  std::array<float, 4> target;
  for (int axis = 0; axis < 2; ++axis) {
    const Side b = side(box[axis], box[axis + 2]), a = side(anchor[axis], anchor[axis + 2]);
    target[axis] = (b.centre - a.centre) / a.size;
    target[axis + 2] = std::log(b.size / a.size);
  }
  return target;
}

// Sum of the four terms of the anchor number `row` of one image and level; writes their gradients.
template <typename scalar_t, typename compute_t>
double anchor_loss(const Level& level, int64_t image, int64_t row,
                   const std::array<float, 4>& target, const Settings<compute_t>& settings) {
  const int64_t place = row / level.slots, slot = row % level.slots;
  const int64_t first = level.channels_last
                            ? 4 * (image * level.rows() + row)
                            : 4 * (image * level.slots + slot) * level.places + place;
  const int64_t stride = level.channels_last ? 1 : level.places;
  const auto* deltas = static_cast<const scalar_t*>(level.values) + first;
  auto* gradients = static_cast<scalar_t*>(level.gradients);
  double loss = 0;
  for (int i = 0; i < 4; ++i) {
    if (target[i] == 0) continue;
    const compute_t error = static_cast<compute_t>(deltas[i * stride]) - target[i];
    const compute_t size = std::abs(error), delta = settings.delta;
    loss += size < delta ? size * size / 2 : delta * (size - delta / 2);
    const compute_t slope = error < -delta ? -delta : error > delta ? delta : error;
    if (gradients)
      gradients[first + i * stride] = static_cast<scalar_t>(slope * settings.gradient_scale);
  }
  return loss;
}

// Sum of the terms of the anchors [begin, end) of one image.
template <typename scalar_t, typename compute_t>
double range_loss(const std::vector<Level>& levels, const Inputs& inputs, int64_t image,
                  int64_t begin, int64_t end, const Settings<compute_t>& settings) {
  const int32_t* matched = inputs.matched + image * inputs.num_anchors;
  double sum = 0;
  auto level = levels.begin();
  for (int64_t i = begin; i < end; ++i) {
    if (matched[i] < 0) continue;
    while (i >= level->first_anchor + level->rows()) ++level;
    std::array<float, 4> target{kNaN, kNaN, kNaN, kNaN};
    if (matched[i] < inputs.num_boxes)
      target = encode_box(inputs.boxes + 4 * (image * inputs.num_boxes + matched[i]),
                          inputs.anchors + 4 * i);
    sum += anchor_loss<scalar_t>(*level, image, i - level->first_anchor, target, settings);
  }
  return sum;
}

template <typename scalar_t, typename compute_t>
double huber_sum(const std::vector<Level>& levels, const Inputs& inputs,
                 const Settings<compute_t>& settings) {
  const int64_t tasks_per_image = (inputs.num_anchors + kAnchorsPerTask - 1) / kAnchorsPerTask;
  std::vector<double> sums(inputs.num_images * tasks_per_image);
  const auto num_tasks = static_cast<int64_t>(sums.size());
  torch::stable::parallel_for(0, num_tasks, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t begin = task % tasks_per_image * kAnchorsPerTask;
      const int64_t end = std::min(begin + kAnchorsPerTask, inputs.num_anchors);
      sums[task] =
          range_loss<scalar_t>(levels, inputs, task / tasks_per_image, begin, end, settings);
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

double huber_sum(ScalarType dtype, const std::vector<Level>& levels, const Inputs& inputs,
                 const Settings<double>& exact) {
  using torch::headeronly::BFloat16;
  using torch::headeronly::Half;
  const Settings<float> settings{static_cast<float>(exact.delta),
                                 static_cast<float>(exact.gradient_scale)};
  switch (dtype) {
    case ScalarType::Double:
      return huber_sum<double>(levels, inputs, exact);
    case ScalarType::Float:
      return huber_sum<float>(levels, inputs, settings);
    case ScalarType::Half:
      return huber_sum<Half>(levels, inputs, settings);
    case ScalarType::BFloat16:
      return huber_sum<BFloat16>(levels, inputs, settings);
    default:
      STD_TORCH_CHECK(false, "huber_box_loss: deltas must be float16, bfloat16, float32 or 64");
  }
}

void check(const Tensor& anchors, const Tensor& boxes, const Tensor& matched) {
  STD_TORCH_CHECK(anchors.is_cpu() && anchors.scalar_type() == ScalarType::Float &&
                      anchors.dim() == 2 && anchors.size(1) == 4,
                  "huber_box_loss: anchors must be [A, 4] float32 on the CPU");
  STD_TORCH_CHECK(boxes.is_cpu() && boxes.scalar_type() == ScalarType::Float && boxes.dim() == 3 &&
                      boxes.size(2) == 4,
                  "huber_box_loss: boxes must be [B, M, 4] float32 on the CPU");
  STD_TORCH_CHECK(matched.is_cpu() && matched.scalar_type() == ScalarType::Int &&
                      matched.dim() == 2 && matched.size(0) == boxes.size(0) &&
                      matched.size(1) == anchors.size(0),
                  "huber_box_loss: matched must be [B, A] int32 on the CPU");
}

// effdet::huber_box_loss
std::tuple<Tensor, std::vector<Tensor>> huber_box_loss(std::vector<Tensor> deltas, Tensor anchors,
                                                       Tensor boxes, Tensor matched,
                                                       Tensor normalizer, Tensor grad_scale,
                                                       double delta, bool need_grad) {
  STD_TORCH_CHECK(!deltas.empty(), "huber_box_loss: deltas must hold at least one level");
  check(anchors, boxes, matched);
  const double divisor = read_scalar("normalizer", normalizer);
  const double scale = read_scalar("grad_scale", grad_scale);
  anchors = torch::stable::contiguous(anchors);
  boxes = torch::stable::contiguous(boxes);
  matched = torch::stable::contiguous(matched);
  std::vector<Tensor> gradients = empty_like_if(need_grad, deltas);
  for (Tensor& gradient : gradients) torch::stable::zero_(gradient);
  const auto levels =
      find_levels("huber_box_loss", deltas, gradients, 4, matched.size(0), matched.size(1));
  const Inputs inputs{static_cast<const float*>(anchors.const_data_ptr()),
                      static_cast<const float*>(boxes.const_data_ptr()),
                      static_cast<const int32_t*>(matched.const_data_ptr()),
                      matched.size(0),
                      boxes.size(1),
                      anchors.size(0)};
  const double sum = huber_sum(deltas[0].scalar_type(), levels, inputs, {delta, scale / divisor});
  return {make_scalar(normalizer, sum / divisor), gradients};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CPU, library) {
  library.impl("huber_box_loss", TORCH_BOX(&huber_box_loss));
}

}  // namespace effdet
