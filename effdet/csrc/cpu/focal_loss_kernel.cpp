// SPDX-License-Identifier: Apache-2.0
// Focal loss and its gradient in one pass over the levels' logits, on the CPU.
//
// The formula and the meaning of the arguments stand in effdet/ops/focal_loss.py. Almost every
// class is absent at almost every anchor: those are summed in long runs, the few present ones are
// left out of them and computed one by one.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "../common/codes.h"
#include "focal_loss.h"
#include "levels.h"
#include "tensors.h"

namespace effdet {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Settings {
  double alpha, gamma, half_smoothing, gradient_scale;
  int64_t num_classes;
};

struct Term {
  double loss, gradient;
};

// One logit in double precision. `wrong` is the logit of the wrong answer: x where the class is
// absent, -x where it is present; q = sigmoid(wrong) = 1 - p_t is its probability.
Term exact_term(double x, bool present, const Settings& s) {
  const double wrong = present ? -x : x, weight = present ? s.alpha : 1 - s.alpha;
  const double e = std::exp(-std::abs(wrong)), log1p_e = std::log1p(e);
  const double larger = 1 / (1 + e), smaller = e * larger;
  const double q = wrong >= 0 ? larger : smaller, p_t = wrong >= 0 ? smaller : larger;
  const double minus_log_q = std::max(-wrong, 0.0) + log1p_e;
  // Without smoothing an infinite logit must not give 0 * infinity.
  const double smoothed = s.half_smoothing > 0 ? s.half_smoothing * wrong : 0;
  const double cross_entropy = std::max(wrong, 0.0) + log1p_e - smoothed;
  const double factor = weight * (s.gamma > 0 ? std::exp(-s.gamma * minus_log_q) : 1);
  const double slope = factor * (s.gamma * p_t * cross_entropy + q - s.half_smoothing);
  return {factor * cross_entropy, (present ? -slope : slope) * s.gradient_scale};
}

// A piece of one image's anchors in one level: the same anchor slot at places [begin, end) of the
// map where the level is contiguous; rows [begin, end) of all slots where it is channels-last.
struct Task {
  int level;
  int64_t image, slot, begin, end;
};

constexpr int64_t kRowsPerTask = 512, kPlacesPerTask = 4096;

std::vector<Task> split_into_tasks(const std::vector<Level>& levels) {
  std::vector<Task> tasks;
  for (int l = 0; l < static_cast<int>(levels.size()); ++l) {
    const Level& level = levels[l];
    if (level.rows() == 0) continue;
    const int64_t slots = level.channels_last ? 1 : level.slots;
    const int64_t length = level.channels_last ? level.rows() : level.places;
    const int64_t step = level.channels_last ? kRowsPerTask : kPlacesPerTask;
    for (int64_t image = 0; image < level.images; ++image)
      for (int64_t slot = 0; slot < slots; ++slot)
        for (int64_t begin = 0; begin < length; begin += step)
          tasks.push_back({l, image, slot, begin, std::min(length, begin + step)});
  }
  return tasks;
}

// Pointers of one level and the arithmetic of one storage type; everything that is done rarely is
// done here, one logit at a time in double precision.
template <typename scalar_t>
class LevelLoss {
 public:
  LevelLoss(const Level& level, const Settings& settings)
      : level_(level),
        settings_(settings),
        logits_(static_cast<const scalar_t*>(level.values)),
        gradients_(static_cast<scalar_t*>(level.gradients)) {}

  // Loss of the anchors of one task. `targets` are those of its image and level.
  double operator()(const Task& task, const int32_t* targets) const {
    return level_.channels_last ? channels_last(task, targets) : contiguous(task, targets);
  }

 private:
  double channels_last(const Task& task, const int32_t* targets) const {
    const int64_t classes = settings_.num_classes, start = task.image * level_.rows();
    std::vector<float> keep;
    double sum = 0;
    for (int64_t begin = task.begin; begin < task.end;) {
      const int64_t at = (start + begin) * classes;
      int64_t end = begin + 1;
      if (is_usual(targets[begin])) {
        while (end < task.end && targets[end] == targets[begin]) ++end;
        if (targets[begin] == kIgnore)
          clear(at, (end - begin) * classes);
        else
          sum += negatives(at, (end - begin) * classes, nullptr);
      } else if (is_class(targets[begin])) {
        // Left out rather than subtracted afterwards, which would cancel.
        keep.assign(classes, 1.f);
        keep[targets[begin]] = 0.f;
        sum += negatives(at, classes, keep.data()) + positive(at + targets[begin]);
      } else {
        sum += spoil(at, 1);
      }
      begin = end;
    }
    return sum;
  }

  double contiguous(const Task& task, const int32_t* targets) const {
    const int64_t classes = settings_.num_classes, count = task.end - task.begin;
    const int64_t plane = (task.image * level_.slots + task.slot) * classes;
    const int64_t first = plane * level_.places + task.begin;
    float keep[kPlacesPerTask];
    std::vector<Place> unusual;  // by class, so that each plane takes its own
    bool any_ignored = false;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t target = targets[(task.begin + i) * level_.slots + task.slot];
      keep[i] = target == kIgnore ? 0.f : 1.f;
      any_ignored |= target == kIgnore;
      if (!is_usual(target)) unusual.push_back({target, i});
    }
    std::sort(unusual.begin(), unusual.end());
    double sum = 0;
    auto next = std::find_if(unusual.begin(), unusual.end(),
                             [&](const Place& place) { return is_class(place.first); });
    for (int64_t k = 0; k < classes; ++k) {
      const int64_t at = first + k * level_.places;
      const auto begin = next;
      while (next != unusual.end() && next->first == k) keep[(next++)->second] = 0.f;
      sum += negatives(at, count, any_ignored || next != begin ? keep : nullptr);
      for (auto place = begin; place != next; ++place) {
        keep[place->second] = 1.f;
        sum += positive(at + place->second);
      }
    }
    for (const auto& [target, i] : unusual)
      if (!is_class(target)) sum += spoil(first + i, level_.places);
    return sum;
  }

  using Place = std::pair<int32_t, int64_t>;  // target and place of an anchor

  static bool is_usual(int32_t target) { return target == kBackground || target == kIgnore; }
  bool is_class(int32_t target) const { return target >= 0 && target < settings_.num_classes; }

  // The loss of `count` neighbouring logits whose classes are absent, and their gradients.
  double negatives(int64_t at, int64_t count, const float* keep) const;

  // The loss of one logit whose class is present.
  double positive(int64_t at) const {
    const Term term = exact_term(static_cast<double>(logits_[at]), true, settings_);
    store(at, term.gradient);
    return term.loss;
  }

  // NaN for an anchor whose target is nothing that there is.
  double spoil(int64_t at, int64_t stride) const {
    for (int64_t k = 0; k < settings_.num_classes; ++k) store(at + k * stride, kNaN);
    return kNaN;
  }

  void store(int64_t at, double gradient) const {
    if (gradients_) gradients_[at] = static_cast<scalar_t>(gradient);
  }

  void clear(int64_t at, int64_t count) const {
    if (gradients_) std::fill_n(gradients_ + at, count, static_cast<scalar_t>(0.0));
  }

  const Level& level_;
  const Settings& settings_;
  const scalar_t* logits_;
  scalar_t* gradients_;
};

template <typename scalar_t>
double LevelLoss<scalar_t>::negatives(int64_t at, int64_t count, const float* keep) const {
  FocalRun run{float_type<scalar_t>(),
               logits_ + at,
               gradients_ ? gradients_ + at : nullptr,
               keep,
               count,
               static_cast<float>(1 - settings_.alpha),
               static_cast<float>(settings_.gamma),
               static_cast<float>(settings_.half_smoothing),
               static_cast<float>(settings_.gradient_scale)};
  return EFFDET_SIMD(focal_negatives)(run);
}

// Double precision is for checking gradients: exact functions, no hurry.
template <>
double LevelLoss<double>::negatives(int64_t at, int64_t count, const float* keep) const {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const bool kept = keep == nullptr || keep[i] != 0;
    const Term term = kept ? exact_term(logits_[at + i], false, settings_) : Term{0, 0};
    sum += term.loss;
    store(at + i, term.gradient);
  }
  return sum;
}

// The sum over all anchors. The tasks do not depend on the number of threads and their sums are
// added in order, so the loss is the same to the last bit on one thread or many.
template <typename scalar_t>
double focal_sum(const std::vector<Level>& levels, const Tensor& targets,
                 const Settings& settings) {
  const auto* all_targets = static_cast<const int32_t*>(targets.const_data_ptr());
  const int64_t num_anchors = targets.size(1);
  const std::vector<Task> tasks = split_into_tasks(levels);
  std::vector<double> sums(tasks.size());
  torch::stable::parallel_for(0, tasks.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Task& task = tasks[i];
      const Level& level = levels[task.level];
      const int32_t* own = all_targets + task.image * num_anchors + level.first_anchor;
      sums[i] = LevelLoss<scalar_t>(level, settings)(task, own);
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// effdet::sigmoid_focal_loss
std::tuple<Tensor, std::vector<Tensor>> sigmoid_focal_loss(std::vector<Tensor> logits,
                                                           Tensor targets, Tensor normalizer,
                                                           Tensor grad_scale, int64_t num_classes,
                                                           double alpha, double gamma,
                                                           double label_smoothing, bool need_grad) {
  STD_TORCH_CHECK(!logits.empty() && num_classes > 0,
                  "sigmoid_focal_loss: at least one level and one class are needed");
  STD_TORCH_CHECK(
      targets.is_cpu() && targets.dim() == 2 && targets.scalar_type() == ScalarType::Int,
      "sigmoid_focal_loss: targets must be int32 [B, A] on the CPU");
  std::vector<Tensor> gradients = empty_like_if(need_grad, logits);
  const std::vector<Level> levels = find_levels("sigmoid_focal_loss", logits, gradients,
                                                num_classes, targets.size(0), targets.size(1));
  targets = torch::stable::contiguous(targets);
  const double divisor = read_scalar("sigmoid_focal_loss: normalizer", normalizer);
  const double scale = read_scalar("sigmoid_focal_loss: grad_scale", grad_scale);
  const Settings settings{alpha, gamma, label_smoothing / 2, scale / divisor, num_classes};
  double sum = 0;
  switch (logits[0].scalar_type()) {
    case ScalarType::Double:
      sum = focal_sum<double>(levels, targets, settings);
      break;
    case ScalarType::Float:
      sum = focal_sum<float>(levels, targets, settings);
      break;
    case ScalarType::Half:
      sum = focal_sum<torch::headeronly::Half>(levels, targets, settings);
      break;
    case ScalarType::BFloat16:
      sum = focal_sum<torch::headeronly::BFloat16>(levels, targets, settings);
      break;
    default:
      STD_TORCH_CHECK(false, "sigmoid_focal_loss: logits must be float16, bfloat16, float32 or 64");
  }
  return {make_scalar(normalizer, sum / divisor), gradients};
}

}  // namespace
}  // namespace effdet

STABLE_TORCH_LIBRARY_IMPL(effdet, CPU, library) {
  library.impl("sigmoid_focal_loss", TORCH_BOX(&effdet::sigmoid_focal_loss));
}
