// SPDX-License-Identifier: Apache-2.0
// Focal loss and its gradient in one pass over the logits, on the CPU.
//
// The formula and the meaning of the arguments stand in effdet/ops/focal_loss.py.
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
#include <vector>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kIgnore = -2;

// Rows whose terms one task adds up. The tasks do not depend on the number of threads and their
// sums are added in order, so the loss is the same to the last bit on one thread or many.
constexpr int64_t kRowsPerTask = 128;

template <typename compute_t>
struct Settings {
  compute_t alpha, gamma, half_smoothing;
};

template <typename compute_t>
struct Term {
  compute_t loss, gradient;
};

// q^gamma from q and -log(q). The two usual exponents need no third transcendental function; the
// general form cannot underflow to 0 * inf where gamma < 1.
template <typename compute_t>
inline compute_t power(compute_t q, compute_t minus_log_q, compute_t gamma) {
  if (gamma == compute_t(1.5)) return q * std::sqrt(q);
  if (gamma == compute_t(2)) return q * q;
  return std::exp(-gamma * minus_log_q);
}

// One logit. `wrong` is the logit of the wrong answer: x where the class is absent, -x where it is
// present; q = sigmoid(wrong) = 1 - p_t is its probability.
template <typename compute_t>
inline Term<compute_t> focal_term(compute_t x, bool present, const Settings<compute_t>& s) {
  const compute_t wrong = present ? -x : x;
  const compute_t weight = present ? s.alpha : 1 - s.alpha;
  const compute_t e = std::exp(-std::abs(wrong));
  const compute_t larger = 1 / (1 + e), smaller = e * larger;
  const compute_t q = wrong >= 0 ? larger : smaller;
  const compute_t p_t = wrong >= 0 ? smaller : larger;
  const compute_t log1p_e = std::log1p(e);
  const compute_t minus_log_q = std::max(-wrong, compute_t(0)) + log1p_e;
  const compute_t minus_log_p_t = std::max(wrong, compute_t(0)) + log1p_e;
  const compute_t cross_entropy = minus_log_p_t - s.half_smoothing * wrong;
  const compute_t factor = weight * power(q, minus_log_q, s.gamma);
  const compute_t slope = factor * (s.gamma * p_t * cross_entropy + q - s.half_smoothing);
  return {factor * cross_entropy, present ? -slope : slope};
}

// Sum of the terms of one anchor's logits [K]; writes their gradients where `gradient` is not null.
template <typename scalar_t, typename compute_t>
double focal_row(const scalar_t* logits, scalar_t* gradient, int64_t target, int64_t num_classes,
                 const Settings<compute_t>& settings) {
  if (target <= kIgnore || target >= num_classes) {
    const double value = target == kIgnore ? 0 : std::numeric_limits<double>::quiet_NaN();
    if (gradient) std::fill_n(gradient, num_classes, static_cast<scalar_t>(value));
    return value;
  }
  double sum = 0;
  for (int64_t k = 0; k < num_classes; ++k) {
    const auto term = focal_term(static_cast<compute_t>(logits[k]), k == target, settings);
    sum += term.loss;
    if (gradient) gradient[k] = static_cast<scalar_t>(term.gradient);
  }
  return sum;
}

// Sum over all anchors of contiguous tensors; fills `gradient` unless it is empty.
template <typename scalar_t, typename compute_t>
double focal_rows(const Tensor& logits, const Tensor& targets, const Tensor& gradient,
                  const Settings<double>& exact) {
  const Settings<compute_t> settings{static_cast<compute_t>(exact.alpha),
                                     static_cast<compute_t>(exact.gamma),
                                     static_cast<compute_t>(exact.half_smoothing)};
  const auto* x = static_cast<const scalar_t*>(logits.const_data_ptr());
  const auto* t = static_cast<const int64_t*>(targets.const_data_ptr());
  auto* g = gradient.numel() ? static_cast<scalar_t*>(gradient.mutable_data_ptr()) : nullptr;
  const int64_t num_rows = targets.numel(), num_classes = logits.size(2);
  const int64_t num_tasks = (num_rows + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<double> sums(num_tasks);
  torch::stable::parallel_for(0, num_tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t last = std::min(num_rows, (task + 1) * kRowsPerTask);
      double sum = 0;
      for (int64_t row = task * kRowsPerTask; row < last; ++row) {
        const int64_t at = row * num_classes;
        sum += focal_row(x + at, g ? g + at : nullptr, t[row], num_classes, settings);
      }
      sums[task] = sum;
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

double focal_sum(const Tensor& logits, const Tensor& targets, const Tensor& gradient,
                 const Settings<double>& settings) {
  using torch::headeronly::BFloat16;
  using torch::headeronly::Half;
  switch (logits.scalar_type()) {
    case ScalarType::Double:
      return focal_rows<double, double>(logits, targets, gradient, settings);
    case ScalarType::Float:
      return focal_rows<float, float>(logits, targets, gradient, settings);
    case ScalarType::Half:
      return focal_rows<Half, float>(logits, targets, gradient, settings);
    case ScalarType::BFloat16:
      return focal_rows<BFloat16, float>(logits, targets, gradient, settings);
    default:
      STD_TORCH_CHECK(false, "sigmoid_focal_loss: logits must be float16, bfloat16, float32 or 64");
  }
}

// effdet::sigmoid_focal_loss
std::tuple<Tensor, Tensor> sigmoid_focal_loss(Tensor logits, Tensor targets, double alpha,
                                              double gamma, double label_smoothing,
                                              bool need_grad) {
  STD_TORCH_CHECK(logits.dim() == 3 && targets.dim() == 2 && logits.size(0) == targets.size(0) &&
                      logits.size(1) == targets.size(1),
                  "sigmoid_focal_loss: logits must be [B, A, K] and targets [B, A]");
  STD_TORCH_CHECK(targets.is_cpu() && targets.scalar_type() == ScalarType::Long,
                  "sigmoid_focal_loss: targets must be int64 on the device of the logits");
  logits = torch::stable::contiguous(logits);
  targets = torch::stable::contiguous(targets);
  Tensor gradient = need_grad ? torch::stable::empty_like(logits)
                              : torch::stable::new_empty(logits, {0}, logits.scalar_type());
  const double sum = focal_sum(logits, targets, gradient, {alpha, gamma, label_smoothing / 2});
  const bool is_double = logits.scalar_type() == ScalarType::Double;
  Tensor loss =
      torch::stable::new_empty(logits, {}, is_double ? ScalarType::Double : ScalarType::Float);
  torch::stable::fill_(loss, sum);
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CPU, library) {
  library.impl("sigmoid_focal_loss", TORCH_BOX(&sigmoid_focal_loss));
}
