// SPDX-License-Identifier: Apache-2.0
// The focal loss of logits whose class is absent. See focal_loss.h and simd.h.
#pragma once
#include "focal_loss.h"
#include "simd_math.h"

namespace effdet::EFFDET_ISA {
namespace focal {

constexpr float kLog2E = 1.44269504f;

// Exponents with a shorter form than exp.
enum class Gamma { one_and_a_half, two, any };

// q^gamma, where minus_log_q = -log(q). The general form cannot become 0 * infinity.
template <Gamma G>
EFFDET_INLINE float power(float q, float minus_log_q, float gamma) {
  if (G == Gamma::two) return q * q;
  if (G == Gamma::one_and_a_half) return q * __builtin_sqrtf(q);
  return exp2_in_range(maximum(-gamma * minus_log_q * kLog2E, -126.f));
}

struct Term {
  float loss, gradient;  // the gradient is scaled
};

// exp(-|x|). Positive floats are ordered as their bits, whose minimum is one instruction; NaN, the
// largest bits, is lost here but comes back with positive_part.
EFFDET_INLINE float exp_minus_abs(float x) {
  const uint32_t bits = bits_of_float(__builtin_fabsf(x) * kLog2E), most = bits_of_float(126.f);
  return exp2_in_range(-float_of_bits(bits < most ? bits : most));
}

// One logit x whose class is absent, with e = exp(-|x|): q = sigmoid(x) is the probability of the
// wrong answer. The formula stands in effdet/ops/focal_loss.py.
template <Gamma G>
EFFDET_INLINE Term negative(float x, float e, const FocalRun& run) {
  const float log1p_e = log1p_in_range(e);
  const float larger = 1.f / (1.f + e), smaller = e * larger;
  const float q = x >= 0.f ? larger : smaller;
  const float minus_log_q = positive_part(-x) + log1p_e;
  // Without smoothing an infinite logit must not give 0 * infinity.
  const float smoothed = run.half_smoothing > 0.f ? run.half_smoothing * x : 0.f;
  const float cross_entropy = positive_part(x) + log1p_e - smoothed;
  const float factor = run.weight * power<G>(q, minus_log_q, run.gamma);
  const float slope = multiply_add(run.gamma * (1.f - q), cross_entropy, q - run.half_smoothing);
  return {factor * cross_entropy, factor * run.gradient_scale * slope};
}

// Terms summed in float, lane by lane, before the sum goes on in double.
constexpr int64_t kBlock = 1024;

template <typename Type, Gamma G, bool kGradient, bool kMask>
double sum_block(const FocalRun& settings, int64_t begin, int64_t end) {
  const FocalRun run = settings;
  const auto* x = static_cast<const typename Type::Storage*>(run.logits);
  auto* g = static_cast<typename Type::Storage*>(run.gradients);
  const float* keep = run.keep;
  // Two loops of half the length: the processor overlaps more rounds of a short chain of dependent
  // instructions than of a long one.
  float exponentials[kBlock];
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) exponentials[i - begin] = exp_minus_abs(Type::load(x + i));
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = begin; i < end; ++i) {
    Term term = negative<G>(Type::load(x + i), exponentials[i - begin], run);
    if (kMask) {
      term.loss = keep[i] != 0.f ? term.loss : 0.f;
      term.gradient = keep[i] != 0.f ? term.gradient : 0.f;
    }
    sum += term.loss;
    if (kGradient) Type::store(g + i, term.gradient);
  }
  return sum;
}

template <typename Type, Gamma G>
double sum_run(const FocalRun& run) {
  double sum = 0;
  for (int64_t begin = 0; begin < run.count; begin += kBlock) {
    const int64_t end = begin + kBlock < run.count ? begin + kBlock : run.count;
    if (run.keep)
      sum += run.gradients ? sum_block<Type, G, true, true>(run, begin, end)
                           : sum_block<Type, G, false, true>(run, begin, end);
    else
      sum += run.gradients ? sum_block<Type, G, true, false>(run, begin, end)
                           : sum_block<Type, G, false, false>(run, begin, end);
  }
  return sum;
}

template <typename Type>
double sum_typed(const FocalRun& run) {
  if (run.gamma == 1.5f) return sum_run<Type, Gamma::one_and_a_half>(run);
  if (run.gamma == 2.f) return sum_run<Type, Gamma::two>(run);
  return sum_run<Type, Gamma::any>(run);
}

}  // namespace focal

double focal_negatives(const FocalRun& run) {
  switch (run.type) {
    case FloatType::bfloat16:
      return focal::sum_typed<BFloat16>(run);
    case FloatType::float16:
      return focal::sum_typed<Float16>(run);
    default:
      return focal::sum_typed<Float32>(run);
  }
}

}  // namespace effdet::EFFDET_ISA
