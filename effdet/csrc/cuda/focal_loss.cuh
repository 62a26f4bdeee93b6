// SPDX-License-Identifier: Apache-2.0
// Focal loss and its gradient in one pass over the logits where the heads left them.
//
// The formulas and the meaning of the arguments stand in effdet/ops/focal_loss.py. Two kernels, one
// a memory layout; each takes all levels in one launch.
//
// About one logit in 30,000 has its class present. The kernels therefore treat every vector of
// logits as absent classes of anchors that count, and send the few vectors for which that is wrong
// through one_logit, element by element. No order of additions depends on the GPU: every block
// leaves one partial sum, and mean_of_partial_sums adds them in order.
#pragma once
#include "../common/codes.h"
#include "levels.cuh"

namespace effdet {

constexpr int kFocalThreads = 256;
// Vectors that a thread takes in one block: enough to make the block's own sum cheap, few enough
// that the last blocks do not leave most of the GPU waiting.
constexpr unsigned kFocalVectors = 8;
// Classes that a thread of the contiguous kernel goes through; they fit the bits of a mask.
constexpr int kMaxChunk = 16;

template <typename compute_t>
struct FocalArguments {
  LossLevels levels;
  const int* targets = nullptr;  // [B, A]
  unsigned num_classes = 0;
  Division by_classes;
  unsigned chunks = 0, classes_per_chunk = 0;
  const compute_t* normalizer = nullptr;
  const compute_t* grad_scale = nullptr;
  compute_t present_weight = 0, absent_weight = 0, gamma = 0, half_smoothing = 0;
  double* partial_sums = nullptr;  // a tile each
};

// --- one logit ---

enum class Exponent { one_and_a_half, two, any };

template <typename compute_t>
struct FocalTerm {
  compute_t loss, slope;  // without weight; the slope is d loss / d wrong
};

// q = sigmoid(z), p_t = 1 - q, log1p_e = log(1 + exp(-|z|)).
template <typename compute_t>
struct Sigmoid {
  compute_t q, p_t, log1p_e;
};

// For 16-bit logits: relative errors about 1e-6.
__device__ __forceinline__ Sigmoid<float> sigmoid_for_16_bit(float z) {
  const float e = exp2_approx(-1.44269504f * fabsf(z));
  const float larger = reciprocal_approx(1 + e), smaller = e * larger;
  // Minimax polynomial of log(1 + e) / e in [0, 1]. The logarithm instruction would be shorter, but
  // its error is absolute: too much for the small e of most logits.
  float series = 0.0141410239f;
  series = fmaf(series, e, -0.0664018003f);
  series = fmaf(series, e, 0.149223875f);
  series = fmaf(series, e, -0.235038604f);
  series = fmaf(series, e, 0.33109449f);
  series = fmaf(series, e, -0.499869656f);
  series = fmaf(series, e, 0.999998732f);
  return {z >= 0 ? larger : smaller, z >= 0 ? smaller : larger, e * series};
}

// Relative errors of a few float roundings, for tiny e too.
__device__ __forceinline__ Sigmoid<float> sigmoid_for_32_bit(float z) {
  const float power = -1.44269504f * fabsf(z);
  float e = exp2_approx(power);
  // exp(-|z|) = 2^power * exp(d), where d is what the rounding of `power` lost. Where 2^power is 0
  // the correction is left out: d may be infinite minus infinite.
  const float lost = fmaf(power, -0.693147182f, -fabsf(z));
  e = e > 0 ? fmaf(e, lost, e) : e;
  // log(1 + e) = 2 atanh(e / (2 + e)); both quotients from one reciprocal.
  const float reciprocal = reciprocal_approx((1 + e) * (2 + e));
  const float larger = reciprocal * (2 + e), smaller = e * larger;
  const float a = e * (reciprocal * (1 + e)), square = a * a;
  float series = 0.140891676f;  // minimax in [0, 1/9] of (atanh(a) / a - 1) / a^2
  series = fmaf(series, square, 0.139803013f);
  series = fmaf(series, square, 0.200124551f);
  series = fmaf(series, square, 0.333331573f);
  const float log1p_e = 2 * a * fmaf(series, square, 1.f);
  return {z >= 0 ? larger : smaller, z >= 0 ? smaller : larger, log1p_e};
}

__device__ __forceinline__ Sigmoid<double> sigmoid_for_64_bit(double z) {
  const double e = exp(-fabs(z)), larger = 1 / (1 + e), smaller = e * larger;
  return {z >= 0 ? larger : smaller, z >= 0 ? smaller : larger, log1p(e)};
}

template <typename scalar_t>
__device__ __forceinline__ auto sigmoid_parts(typename Storage<scalar_t>::compute_t z) {
  if constexpr (sizeof(scalar_t) == 2) {
    return sigmoid_for_16_bit(z);
  } else if constexpr (sizeof(scalar_t) == 4) {
    return sigmoid_for_32_bit(z);
  } else {
    return sigmoid_for_64_bit(z);
  }
}

// q^gamma. -log(q) is cut at a finite value: gamma 0 times infinity would be NaN.
template <Exponent kExponent, typename compute_t>
__device__ __forceinline__ compute_t focal_power(compute_t q, compute_t minus_log_q,
                                                 compute_t gamma) {
  if constexpr (kExponent == Exponent::two) {
    return q * q;
  } else if constexpr (sizeof(compute_t) == 8) {
    return exp(-gamma * fmin(minus_log_q, 1e308));
  } else if constexpr (kExponent == Exponent::one_and_a_half) {
    return q * sqrt_approx(q);
  } else {
    return exp2_approx(-1.44269504f * (gamma * fminf(minus_log_q, 1e38f)));
  }
}

// `wrong`: the logit of the wrong answer, x where the class is absent, -x where it is present.
template <typename scalar_t, Exponent kExponent, bool kSmoothing, typename compute_t>
__device__ __forceinline__ FocalTerm<compute_t> focal_term(compute_t wrong, compute_t gamma,
                                                           compute_t half_smoothing) {
  const Sigmoid<compute_t> s = sigmoid_parts<scalar_t>(wrong);
  const compute_t minus_log_q = max(-wrong, compute_t(0)) + s.log1p_e;
  compute_t cross_entropy = max(wrong, compute_t(0)) + s.log1p_e, distance = s.q;
  if constexpr (kSmoothing) {
    // Left out where it is 0: 0 times an infinite logit would be NaN.
    if (half_smoothing != 0) cross_entropy -= half_smoothing * wrong;
    distance -= half_smoothing;
  }
  const compute_t power = focal_power<kExponent>(s.q, minus_log_q, gamma);
  return {power * cross_entropy, power * (gamma * (s.p_t * cross_entropy) + distance)};
}

// --- the work of a block ---

// Loss of logit `i` of the tile, which is of class k; writes its gradient if that is wanted.
template <Exponent kExponent, bool kSmoothing, typename scalar_t, typename compute_t>
__device__ __forceinline__ compute_t one_logit(const FocalArguments<compute_t>& f,
                                               const Tile<scalar_t>& tile, unsigned i, unsigned k,
                                               int target, compute_t scale) {
  FocalTerm<compute_t> term{0, 0};
  if (target < kIgnore || target >= static_cast<int>(f.num_classes)) {
    term.loss = term.slope = static_cast<compute_t>(nan(""));
  } else if (target != kIgnore) {
    const bool present = static_cast<unsigned>(target) == k;
    const compute_t x = Storage<scalar_t>::load(tile.values + i);
    const compute_t weight = present ? f.present_weight : f.absent_weight;
    term = focal_term<scalar_t, kExponent, kSmoothing>(present ? -x : x, f.gamma, f.half_smoothing);
    term.loss *= weight;
    term.slope *= present ? -weight : weight;
  }
  if (tile.gradients) Storage<scalar_t>::store(tile.gradients + i, term.slope * scale);
  return term.loss;
}

// Loss, without its weight, of the vector of absent classes that starts at logit `i` of the tile;
// writes the gradients if they are wanted. `scale` holds the weight of absent classes.
template <Exponent kExponent, bool kSmoothing, typename scalar_t, typename compute_t>
__device__ __forceinline__ compute_t absent_vector(const FocalArguments<compute_t>& f,
                                                   const Tile<scalar_t>& tile, unsigned i,
                                                   compute_t scale) {
  constexpr int kVector = Storage<scalar_t>::kVector;
  compute_t values[kVector], sum = 0;
  load_vector(tile.values + i, values);
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    const auto term =
        focal_term<scalar_t, kExponent, kSmoothing>(values[j], f.gamma, f.half_smoothing);
    sum += term.loss;
    values[j] = term.slope * scale;
  }
  if (tile.gradients) store_vector(tile.gradients + i, values);
  return sum;
}

// Leaves the block's partial sum.
template <typename compute_t>
__device__ __forceinline__ void finish_focal_tile(const FocalArguments<compute_t>& f,
                                                  compute_t absent, compute_t special) {
  const double sum = block_sum<kFocalThreads>(static_cast<double>(absent) * f.absent_weight +
                                              static_cast<double>(special));
  if (threadIdx.x == 0) f.partial_sums[blockIdx.x] = sum;
}

// --- the kernels ---

// channels_last: an image's logits are rows of K classes, anchor after anchor. Where images do not
// start at multiples of 16 bytes, up to a vector of single logits stands before and after.
template <typename scalar_t, Exponent kExponent, bool kSmoothing>
__global__ void __launch_bounds__(kFocalThreads) focal_channels_last(
    const __grid_constant__ FocalArguments<typename Storage<scalar_t>::compute_t> f) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  constexpr unsigned kVector = Storage<scalar_t>::kVector;
  const auto tile = tile_of_block<scalar_t>(f.levels);
  const unsigned size = tile.size, num_classes = f.num_classes;
  const int* targets = f.targets + tile.first_row;
  const compute_t scale = *f.grad_scale / *f.normalizer, weighted_scale = f.absent_weight * scale;
  compute_t absent = 0, special = 0;  // sums of losses: of usual vectors, and of single logits

  const auto single = [&](unsigned i) {
    const unsigned row = f.by_classes.quotient(i);
    special +=
        one_logit<kExponent, kSmoothing>(f, tile, i, i - row * num_classes, targets[row], scale);
  };

  const auto [head, num_vectors] = vectors_of_image<kVector>(tile.image, size);
  if (tile.number == 0 && threadIdx.x < 2 * kVector) {
    const unsigned tail = head + num_vectors * kVector + (threadIdx.x - kVector);
    const unsigned i = threadIdx.x < kVector ? threadIdx.x : tail;
    if (threadIdx.x < kVector ? i < head : i < size) single(i);
  }

  const unsigned first = tile.number * (kFocalThreads * kFocalVectors);
  const unsigned last = min(first + kFocalThreads * kFocalVectors, num_vectors);
  for (unsigned v = first + threadIdx.x; v < last; v += kFocalThreads) {
    const unsigned i = head + v * kVector;
    const unsigned row = f.by_classes.quotient(i), k = i - row * num_classes;
    // A vector has logits of this row and, where it reaches over its end, of the next.
    const bool two_rows = k + kVector > num_classes;
    const int target = __ldg(targets + row);
    bool usual = static_cast<unsigned>(target) - k >= kVector &&
                 static_cast<unsigned>(target) + 1 <= num_classes;
    if (two_rows) {
      const unsigned next = static_cast<unsigned>(__ldg(targets + row + 1));
      usual = usual && next >= k + kVector - num_classes && next + 1 <= num_classes &&
              kVector <= num_classes;
    }
    if (usual) {
      absent += absent_vector<kExponent, kSmoothing>(f, tile, i, weighted_scale);
    } else {
#pragma unroll 1
      for (unsigned j = 0; j < kVector; ++j) single(i + j);
    }
  }
  finish_focal_tile(f, absent, special);
}

// The classes of `chunk` for kWidth positions from `position` of one anchor, by one thread.
template <typename scalar_t, Exponent kExponent, bool kSmoothing, int kWidth, typename compute_t>
__device__ __forceinline__ void focal_chunk(const FocalArguments<compute_t>& f,
                                            const Tile<scalar_t>& tile, unsigned anchor,
                                            unsigned chunk, unsigned position, compute_t scale,
                                            compute_t& absent, compute_t& special) {
  const unsigned first = chunk * f.classes_per_chunk;
  const unsigned count = min(f.classes_per_chunk, f.num_classes - first);
  const int* targets = f.targets + tile.first_row + (position * tile.anchors + anchor);
  // Bit k: class first + k is not absent, or does not count, for all of the positions.
  unsigned unusual = 0;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const int target = __ldg(targets + j * tile.anchors);
    const unsigned k = static_cast<unsigned>(target) - first;
    if (k < kMaxChunk) unusual |= 1u << k;
    if (static_cast<unsigned>(target) + 1 > f.num_classes) unusual = ~0u;
  }
  const compute_t weighted_scale = f.absent_weight * scale;
  unsigned i = (anchor * f.num_classes + first) * tile.positions + position;
  for (unsigned k = 0; k < count; ++k, i += tile.positions) {
    if (kWidth > 1 && !(unusual >> k & 1)) {
      absent += absent_vector<kExponent, kSmoothing>(f, tile, i, weighted_scale);
    } else {
#pragma unroll 1
      for (unsigned j = 0; j < kWidth; ++j) {
        special += one_logit<kExponent, kSmoothing>(f, tile, i + j, first + k,
                                                    targets[j * tile.anchors], scale);
      }
    }
  }
}

// contiguous: an image's logits are planes of H * W positions, a plane a class and anchor. A thread
// takes a vector of positions through a chunk of classes; where H * W is no multiple of a vector,
// one position.
template <typename scalar_t, Exponent kExponent, bool kSmoothing>
__global__ void __launch_bounds__(kFocalThreads) focal_contiguous(
    const __grid_constant__ FocalArguments<typename Storage<scalar_t>::compute_t> f) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  constexpr unsigned kVector = Storage<scalar_t>::kVector;
  const auto tile = tile_of_block<scalar_t>(f.levels);
  const compute_t scale = *f.grad_scale / *f.normalizer;
  compute_t absent = 0, special = 0;
  const unsigned positions = tile.positions;
  const unsigned width = positions % kVector == 0 ? kVector : 1, groups = positions / width;
  const unsigned unit = tile.number * kFocalThreads + threadIdx.x;
  const unsigned strip = unit / groups, position = (unit - strip * groups) * width;
  const unsigned anchor = strip / f.chunks, chunk = strip - anchor * f.chunks;
  if (anchor < tile.anchors) {
    if (width == 1) {
      focal_chunk<scalar_t, kExponent, kSmoothing, 1>(f, tile, anchor, chunk, position, scale,
                                                      absent, special);
    } else {
      focal_chunk<scalar_t, kExponent, kSmoothing, kVector>(f, tile, anchor, chunk, position, scale,
                                                            absent, special);
    }
  }
  finish_focal_tile(f, absent, special);
}

// --- on the host ---

// Arguments without levels. `K` classes must be below 2^26, the tensors on the device.
template <typename compute_t>
FocalArguments<compute_t> focal_arguments(const int* targets, int64_t num_anchors, unsigned K,
                                          const compute_t* normalizer, const compute_t* grad_scale,
                                          double alpha, double gamma, double label_smoothing) {
  FocalArguments<compute_t> f;
  f.targets = targets;
  f.levels.num_anchors = num_anchors;
  f.num_classes = K;
  f.by_classes = Division(K);
  f.chunks = (K + kMaxChunk - 1) / kMaxChunk;
  f.classes_per_chunk = (K + f.chunks - 1) / f.chunks;
  f.normalizer = normalizer;
  f.grad_scale = grad_scale;
  f.present_weight = static_cast<compute_t>(alpha);
  f.absent_weight = static_cast<compute_t>(1 - alpha);
  f.gamma = static_cast<compute_t>(gamma);
  f.half_smoothing = static_cast<compute_t>(label_smoothing / 2);
  return f;
}

// Adds a level of `batch` images. `vector`: logits in 16 bytes. The memory starts at a multiple of
// 16 bytes.
template <typename compute_t>
void add_focal_level(FocalArguments<compute_t>& f, Layout layout, unsigned vector,
                     const LevelShape& shape, const void* logits, void* gradients, unsigned batch) {
  const unsigned positions = shape.positions;
  unsigned work = shape.size / vector, per_tile = kFocalThreads * kFocalVectors;
  if (layout == Layout::contiguous) {
    work = shape.anchors * f.chunks * (positions % vector == 0 ? positions / vector : positions);
    per_tile = kFocalThreads;
  }
  f.levels.add(shape, logits, gradients, batch, work, per_tile);
}

template <typename scalar_t, Exponent kExponent, bool kSmoothing, typename Launch>
void with_focal_layout(Layout layout, Launch launch) {
  if (layout == Layout::channels_last) {
    launch(focal_channels_last<scalar_t, kExponent, kSmoothing>);
  } else {
    launch(focal_contiguous<scalar_t, kExponent, kSmoothing>);
  }
}

// Calls `launch` with the kernel for these settings.
template <typename scalar_t, typename Launch>
void with_focal_kernel(Layout layout, double gamma, double label_smoothing, Launch launch) {
  constexpr bool kExact = sizeof(scalar_t) == 8;
  if (kExact || (gamma != 1.5 && gamma != 2)) {
    return with_focal_layout<scalar_t, Exponent::any, true>(layout, launch);
  }
  if constexpr (!kExact) {
    if (gamma == 1.5 && label_smoothing == 0) {
      with_focal_layout<scalar_t, Exponent::one_and_a_half, false>(layout, launch);
    } else if (gamma == 1.5) {
      with_focal_layout<scalar_t, Exponent::one_and_a_half, true>(layout, launch);
    } else if (label_smoothing == 0) {
      with_focal_layout<scalar_t, Exponent::two, false>(layout, launch);
    } else {
      with_focal_layout<scalar_t, Exponent::two, true>(layout, launch);
    }
  }
}

// All launches. `by_layout`: the levels of each layout, at its number. `partial_sums`: one for each
// of their tiles.
template <typename scalar_t, typename Launch, typename compute_t>
void launch_focal_loss(const Launch& launch, FocalArguments<compute_t> (&by_layout)[2],
                       double gamma, double label_smoothing, double* partial_sums,
                       compute_t* loss) {
  int64_t num_tiles = 0;
  for (const Layout layout : {Layout::channels_last, Layout::contiguous}) {
    FocalArguments<compute_t>& f = by_layout[static_cast<int>(layout)];
    if (f.levels.num_tiles == 0) continue;
    f.partial_sums = partial_sums + num_tiles;
    num_tiles += f.levels.num_tiles;
    with_focal_kernel<scalar_t>(layout, gamma, label_smoothing, [&](auto kernel) {
      launch(f.levels.num_tiles, kFocalThreads, 0, kernel, f);
    });
  }
  launch(1, kSumThreads, 0, mean_of_partial_sums<compute_t>, partial_sums, num_tiles,
         by_layout[0].normalizer, loss);
}

}  // namespace effdet
