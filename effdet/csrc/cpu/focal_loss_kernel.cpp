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
  const compute_t softplus = std::max(wrong, compute_t(0)) + std::log1p(e);
  const compute_t cross_entropy = softplus - s.half_smoothing * wrong;
  const compute_t factor = weight * power(q, softplus - wrong, s.gamma);
  const compute_t slope = factor * (s.gamma * p_t * cross_entropy + q - s.half_smoothing);
  return {factor * cross_entropy, present ? -slope : slope};
}

// Sum of the terms of one anchor's logits [K]; writes their gradients where `gradient` is not null.
template <typename scalar_t, typename compute_t>
double focal_row(const scalar_t* logits, scalar_t* gradient, int64_t target, int64_t num_classes,
                 const Settings<compute_t>& settings) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const bool valid = target > kIgnore && target < num_classes;
  if (!valid) {
    const double value = target == kIgnore ? 0 : nan;
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

template <typename scalar_t, typename compute_t>
double focal_rows(const Tensor& logits, const Tensor& targets, Tensor* gradient,
                  const Settings<compute_t>& settings) {
  const auto* x = static_cast<const scalar_t*>(logits.const_data_ptr());
  const auto* t = static_cast<const int64_t*>(targets.const_data_ptr());
  auto* g = gradient ? static_cast<scalar_t*>(gradient->mutable_data_ptr()) : nullptr;
  const int64_t num_rows = targets.numel(), num_classes = logits.size(2);
  std::vector<double> sums((num_rows + kRowsPerTask - 1) / kRowsPerTask, 0.0);
  torch::stable::parallel_for(0, sums.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t last = std::min(num_rows, (task + 1) * kRowsPerTask);
      for (int64_t row = task * kRowsPerTask; row < last; ++row) {
        const int64_t at = row * num_classes;
        sums[task] += focal_row(x + at, g ? g + at : nullptr, t[row], num_classes, settings);
      }
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// effdet::sigmoid_focal_loss
std::tuple<Tensor, Tensor> sigmoid_focal_loss(Tensor logits, Tensor targets, double alpha,
                                              double gamma, double label_smoothing,
                                              bool need_grad) {
  STD_TORCH_CHECK(logits.dim() == 3 && targets.dim() == 2 && logits.size(0) == targets.size(0) &&
                      logits.size(1) == targets.size(1),
                  "sigmoid_focal_loss: expected logits [B, A, K] and targets [B, A]");
  STD_TORCH_CHECK(targets.is_cpu() && targets.scalar_type() == ScalarType::Long,
                  "sigmoid_focal_loss: expected int64 targets on the device of the logits");
  logits = torch::stable::contiguous(logits);
  targets = torch::stable::contiguous(targets);
  const bool is_double = logits.scalar_type() == ScalarType::Double;
  Tensor gradient = need_grad ? torch::stable::empty_like(logits)
                              : torch::stable::new_empty(logits, {0}, logits.scalar_type());
  Tensor* out = need_grad ? &gradient : nullptr;
  const Settings<double> exact{alpha, gamma, label_smoothing / 2};
  const Settings<float> single{static_cast<float>(alpha), static_cast<float>(gamma),
                               static_cast<float>(label_smoothing / 2)};
  double sum = 0;
  switch (logits.scalar_type()) {
    case ScalarType::Double:
      sum = focal_rows<double, double>(logits, targets, out, exact);
      break;
    case ScalarType::Float:
      sum = focal_rows<float, float>(logits, targets, out, single);
      break;
    case ScalarType::Half:
      sum = focal_rows<torch::headeronly::Half, float>(logits, targets, out, single);
      break;
    case ScalarType::BFloat16:
      sum = focal_rows<torch::headeronly::BFloat16, float>(logits, targets, out, single);
      break;
    default:
      STD_TORCH_CHECK(false, "sigmoid_focal_loss: logits must be float16, bfloat16, float32 or ",
                      "float64");
  }
  Tensor loss =
      torch::stable::new_empty(logits, {}, is_double ? ScalarType::Double : ScalarType::Float);
  torch::stable::fill_(loss, sum);
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CPU, library) {
  library.impl("sigmoid_focal_loss", TORCH_BOX(&sigmoid_focal_loss));
}
