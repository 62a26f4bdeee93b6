// SPDX-License-Identifier: Apache-2.0
// Focal loss and its gradient in one pass over the logits, on CUDA.
//
// The formula and the meaning of the arguments stand in effdet/ops/focal_loss.py. The sum is taken
// in two launches, each in a fixed order: no atomics, so a run repeats to the last bit, and no
// copy to the host.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kIgnore = -2;
constexpr int kThreads = 256;
constexpr int kRowsPerTile = 32;
// The same on every GPU, so that the order of the sum does not depend on the number of processors.
constexpr int64_t kMaxBlocks = 2048;

template <typename compute_t>
struct Settings {
  compute_t alpha, gamma, half_smoothing;
};

template <typename compute_t>
struct Term {
  compute_t loss, gradient;
};

// q^gamma from q and -log(q); the general form cannot underflow to 0 * inf where gamma < 1.
template <typename compute_t>
__device__ compute_t power(compute_t q, compute_t minus_log_q, compute_t gamma) {
  if (gamma == compute_t(1.5)) return q * sqrt(q);
  if (gamma == compute_t(2)) return q * q;
  return exp(-gamma * minus_log_q);
}

// One logit. `wrong` is the logit of the wrong answer: x where the class is absent, -x where it is
// present; q = sigmoid(wrong) = 1 - p_t is its probability.
template <typename compute_t>
__device__ Term<compute_t> focal_term(compute_t x, bool present, const Settings<compute_t>& s) {
  const compute_t wrong = present ? -x : x;
  const compute_t weight = present ? s.alpha : 1 - s.alpha;
  const compute_t e = exp(-abs(wrong));
  const compute_t larger = 1 / (1 + e), smaller = e * larger;
  const compute_t q = wrong >= 0 ? larger : smaller;
  const compute_t p_t = wrong >= 0 ? smaller : larger;
  const compute_t log1p_e = log1p(e);
  const compute_t minus_log_q = max(-wrong, compute_t(0)) + log1p_e;
  const compute_t minus_log_p_t = max(wrong, compute_t(0)) + log1p_e;
  const compute_t cross_entropy = minus_log_p_t - s.half_smoothing * wrong;
  const compute_t factor = weight * power(q, minus_log_q, s.gamma);
  const compute_t slope = factor * (s.gamma * p_t * cross_entropy + q - s.half_smoothing);
  return {factor * cross_entropy, present ? -slope : slope};
}

// Nothing for an ignored anchor, NaN for a target that is no class.
template <typename compute_t>
__device__ Term<compute_t> term_by_target(compute_t x, int64_t k, int64_t target,
                                          int64_t num_classes, const Settings<compute_t>& s) {
  if (target > kIgnore && target < num_classes) return focal_term(x, k == target, s);
  const compute_t value = target == kIgnore ? compute_t(0) : compute_t(nan(""));
  return {value, value};
}

// Sum of the block's values in a fixed order; the result is valid in thread 0.
__device__ double block_sum(double value) {
  __shared__ double values[kThreads];
  values[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) values[threadIdx.x] += values[threadIdx.x + half];
  }
  return values[0];
}

// First launch: every block takes tiles of kRowsPerTile anchors and leaves one partial sum.
// `gradient` may be null.
template <typename scalar_t, typename compute_t>
__global__ void __launch_bounds__(kThreads)
    focal_rows(const scalar_t* logits, const int64_t* targets, scalar_t* gradient, double* partial,
               int64_t num_rows, unsigned num_classes, Settings<compute_t> settings) {
  double sum = 0;
  const int64_t num_tiles = (num_rows + kRowsPerTile - 1) / kRowsPerTile;
  for (int64_t tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    const int64_t first_row = tile * kRowsPerTile, start = first_row * num_classes;
    const unsigned rows = min(static_cast<int64_t>(kRowsPerTile), num_rows - first_row);
    compute_t tile_sum = 0;
    for (unsigned i = threadIdx.x; i < rows * num_classes; i += kThreads) {
      const unsigned row = i / num_classes, k = i - row * num_classes;
      const auto x = static_cast<compute_t>(logits[start + i]);
      const auto term = term_by_target(x, k, targets[first_row + row], num_classes, settings);
      tile_sum += term.loss;
      if (gradient) gradient[start + i] = static_cast<scalar_t>(term.gradient);
    }
    sum += tile_sum;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Second launch, one block: the sum of the partial sums.
template <typename compute_t>
__global__ void __launch_bounds__(kThreads)
    add_partial_sums(const double* partial, int64_t count, compute_t* loss) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *loss = static_cast<compute_t>(sum);
}

template <typename scalar_t, typename compute_t>
void launch(const Tensor& logits, const Tensor& targets, const Tensor& gradient, const Tensor& loss,
            const Settings<double>& exact) {
  const Settings<compute_t> settings{static_cast<compute_t>(exact.alpha),
                                     static_cast<compute_t>(exact.gamma),
                                     static_cast<compute_t>(exact.half_smoothing)};
  const int64_t num_rows = targets.numel();
  const int64_t num_tiles = (num_rows + kRowsPerTile - 1) / kRowsPerTile;
  const int64_t blocks = std::clamp<int64_t>(num_tiles, 1, kMaxBlocks);
  Tensor partial = torch::stable::new_empty(logits, {blocks}, ScalarType::Double);
  auto* sums = static_cast<double*>(partial.mutable_data_ptr());
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(logits.get_device_index(), &stream));
  focal_rows<scalar_t, compute_t><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const scalar_t*>(logits.const_data_ptr()),
      static_cast<const int64_t*>(targets.const_data_ptr()),
      gradient.numel() ? static_cast<scalar_t*>(gradient.mutable_data_ptr()) : nullptr, sums,
      num_rows, logits.size(2), settings);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  add_partial_sums<compute_t><<<1, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      sums, blocks, static_cast<compute_t*>(loss.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// effdet::sigmoid_focal_loss
std::tuple<Tensor, Tensor> sigmoid_focal_loss(Tensor logits, Tensor targets, double alpha,
                                              double gamma, double label_smoothing,
                                              bool need_grad) {
  using torch::headeronly::BFloat16;
  using torch::headeronly::Half;
  STD_TORCH_CHECK(logits.dim() == 3 && targets.dim() == 2 && logits.size(0) == targets.size(0) &&
                      logits.size(1) == targets.size(1),
                  "sigmoid_focal_loss: logits must be [B, A, K] and targets [B, A]");
  STD_TORCH_CHECK(logits.size(2) <= (1 << 26), "sigmoid_focal_loss: too many classes");
  STD_TORCH_CHECK(targets.get_device_index() == logits.get_device_index() && targets.is_cuda() &&
                      targets.scalar_type() == ScalarType::Long,
                  "sigmoid_focal_loss: targets must be int64 on the device of the logits");
  torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  logits = torch::stable::contiguous(logits);
  targets = torch::stable::contiguous(targets);
  Tensor gradient = need_grad ? torch::stable::empty_like(logits)
                              : torch::stable::new_empty(logits, {0}, logits.scalar_type());
  const bool is_double = logits.scalar_type() == ScalarType::Double;
  Tensor loss =
      torch::stable::new_empty(logits, {}, is_double ? ScalarType::Double : ScalarType::Float);
  const Settings<double> settings{alpha, gamma, label_smoothing / 2};
  switch (logits.scalar_type()) {
    case ScalarType::Double:
      launch<double, double>(logits, targets, gradient, loss, settings);
      break;
    case ScalarType::Float:
      launch<float, float>(logits, targets, gradient, loss, settings);
      break;
    case ScalarType::Half:
      launch<Half, float>(logits, targets, gradient, loss, settings);
      break;
    case ScalarType::BFloat16:
      launch<BFloat16, float>(logits, targets, gradient, loss, settings);
      break;
    default:
      STD_TORCH_CHECK(false, "sigmoid_focal_loss: logits must be float16, bfloat16, float32 or 64");
  }
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) {
  library.impl("sigmoid_focal_loss", TORCH_BOX(&sigmoid_focal_loss));
}
