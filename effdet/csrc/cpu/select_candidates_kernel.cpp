// SPDX-License-Identifier: Apache-2.0
// Selection of the best (anchor, class) pairs, on the CPU. The definition stands in
// effdet/ops/select_candidates.py.
//
// The logits are read once, in the order of the memory, against a floor that rises: pairs that
// reach it are collected, and whenever the collection is full only its best C stay and the last of
// them is the new floor. Which pairs those are does not depend on how the work is divided.
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
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

#include "../common/codes.h"
#include "levels.h"
#include "radix_sort.h"
#include "select_candidates.h"

namespace effdet {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kValuesAtOnce = 4096;

// One level's logits and deltas. Pairs of an image are numbered anchor * K + class over all levels.
struct OutputLevel {
  Tensor logits, deltas;
  bool channels_last;      // of the logits
  int64_t channels, area;  // anchors at a location * K, H * W
  int64_t width, anchors_per_location;
  int64_t first_pair, first_anchor;

  int64_t values_per_image() const { return channels * area; }

  // Number of the pair whose logit is the value number `position` of its image in memory.
  int64_t pair_at(int64_t position) const {
    if (channels_last) return first_pair + position;
    const int64_t channel = position / area, location = position - channel * area;
    return first_pair + location * channels + channel;
  }
};

// The logit's order above the complement of the pair's number, so that the larger key is the better
// pair and equal logits go by lowest number.
uint64_t key_of(float logit, int64_t pair) {
  const float positive_zero = logit + 0.f;
  uint32_t bits;
  std::memcpy(&bits, &positive_zero, sizeof bits);
  const uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(order) << 32 | uint32_t(~uint32_t(pair));
}

float logit_of(uint64_t key) {
  const uint32_t order = uint32_t(key >> 32);
  const uint32_t bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
  float logit;
  std::memcpy(&logit, &bits, sizeof logit);
  return logit;
}

int64_t pair_of(uint64_t key) { return uint32_t(~uint32_t(key)); }

// The best keys of those that were added, at most `wanted` after `finish`.
class BestKeys {
 public:
  BestKeys(int64_t wanted, float floor)
      : wanted_(wanted), capacity_(std::max<int64_t>(4 * wanted, kValuesAtOnce)), floor_(floor) {}

  // No logit below it is needed any more.
  float floor() const { return floor_; }

  int64_t size() const { return keys_.size(); }

  // Whether a key is worth adding.
  bool wants(uint64_t key) const { return key > worst_; }

  void add(uint64_t key) {
    keys_.push_back(key);
    if (int64_t(keys_.size()) >= capacity_) shrink();
  }

  void merge(const BestKeys& other) {
    keys_.insert(keys_.end(), other.keys_.begin(), other.keys_.end());
  }

  // Best first.
  const std::vector<uint64_t>& finish() {
    if (int64_t(keys_.size()) > wanted_) shrink();
    sort_descending(keys_);
    return keys_;
  }

 private:
  void shrink() {
    const auto last = keys_.begin() + wanted_ - 1;
    std::nth_element(keys_.begin(), last, keys_.end(), std::greater<>());
    keys_.resize(wanted_);
    worst_ = keys_.back();
    floor_ = logit_of(worst_);
  }

  int64_t wanted_, capacity_;
  float floor_;
  uint64_t worst_ = 0;
  std::vector<uint64_t> keys_;
};

// Where one image's candidates are written: [C, 4], [C], [C], [C].
struct Places {
  float* boxes;
  float* scores;
  int64_t* labels;
  int64_t* anchors;
};

// What the scan and the decoding need to know; the results, unused places already filled.
struct Job {
  std::vector<OutputLevel> levels;
  std::vector<char> excluded;  // [K], or empty
  int64_t num_images, num_classes, num_candidates;
  double score_threshold;
  const float* anchors;
  Places places;

  bool is_excluded(int64_t pair) const {
    return !excluded.empty() && excluded[uint32_t(pair) % uint32_t(num_classes)];
  }
};

int64_t total_values(const std::vector<OutputLevel>& levels) {
  int64_t total = 0;
  for (const OutputLevel& level : levels) total += level.values_per_image();
  return total;
}

// Positions of the values that may reach the floor; a 16-bit floor is taken one step low, because
// the float32 floor may lie between two values.
int64_t reaching(const float* values, int64_t size, float floor, int32_t* positions) {
  return EFFDET_SIMD(reaching_float32)(values, size, floor, positions);
}

template <typename half_t>
int64_t reaching(const half_t* values, int64_t size, float floor, int32_t* positions) {
  const auto nearest = static_cast<half_t>(floor);
  uint16_t bits;
  std::memcpy(&bits, &nearest, sizeof bits);
  const int order = int16_t(bits) < 0 ? int16_t(bits ^ 0x7fff) : int16_t(bits);
  // -0 comes just below 0, so that one step lower takes it in as well.
  const int low = std::max<int>(order - 1, std::numeric_limits<int16_t>::min());
  return EFFDET_SIMD(reaching_16bit)(reinterpret_cast<const uint16_t*>(values), size, int16_t(low),
                                     positions);
}

// Adds the pairs of values [begin, end) of one image of a level.
template <typename scalar_t>
void scan(const Job& job, const OutputLevel& level, int64_t image, int64_t begin, int64_t end,
          BestKeys& best) {
  const auto* values = static_cast<const scalar_t*>(level.logits.const_data_ptr()) +
                       image * level.values_per_image();
  int32_t positions[kValuesAtOnce];
  for (int64_t start = begin; start < end; start += kValuesAtOnce) {
    const int64_t size = std::min(kValuesAtOnce, end - start);
    const int64_t count = reaching(values + start, size, best.floor(), positions);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = start + positions[i];
      const float logit = static_cast<float>(values[position]);
      if (!(logit >= best.floor())) continue;  // NaN too
      const int64_t pair = level.pair_at(position);
      const uint64_t key = key_of(logit, pair);
      if (best.wants(key) && !job.is_excluded(pair)) best.add(key);
    }
  }
}

// The same for part `part` of `num_parts` of an image's values over all levels.
template <typename scalar_t>
void scan_part(const Job& job, int64_t image, int64_t part, int64_t num_parts, BestKeys& best) {
  const int64_t total = total_values(job.levels), share = (total + num_parts - 1) / num_parts;
  int64_t begin = part * share, end = std::min(total, begin + share);
  for (const OutputLevel& level : job.levels) {
    const int64_t size = level.values_per_image();
    if (begin < size && end > 0)
      scan<scalar_t>(job, level, image, std::max<int64_t>(0, begin), std::min(size, end), best);
    begin -= size;
    end -= size;
  }
}

struct Box {
  float x1, y1, x2, y2;
};

// effdet.boxes.decode_boxes with tw and th cut.
Box decode(const float* deltas, const float* anchor) {
  Box box;
  const auto side = [](float low, float high, float offset, float log_ratio, float& begin,
                       float& end) {
    const float size = high - low;
    const float centre = offset * size + (low + high) / 2;
    const float half = std::exp(log_ratio > kMaxLogRatio ? kMaxLogRatio : log_ratio) * size / 2;
    begin = centre - half;
    end = centre + half;
  };
  side(anchor[0], anchor[2], deltas[0], deltas[2], box.x1, box.x2);
  side(anchor[1], anchor[3], deltas[1], deltas[3], box.y1, box.y2);
  return box;
}

bool is_finite(const Box& box) {
  return std::isfinite(box.x1) && std::isfinite(box.y1) && std::isfinite(box.x2) &&
         std::isfinite(box.y2);
}

// The box of one anchor of a level: `anchor` counts from the level's first.
template <typename scalar_t>
Box decode_at(const OutputLevel& level, int64_t image, int64_t anchor, const float* anchors) {
  const int64_t location = anchor / level.anchors_per_location;
  const int64_t channel = 4 * (anchor - location * level.anchors_per_location);
  const int64_t y = location / level.width, x = location - y * level.width;
  const int64_t step = level.deltas.stride(1);
  const auto* at = static_cast<const scalar_t*>(level.deltas.const_data_ptr()) +
                   image * level.deltas.stride(0) + channel * step + y * level.deltas.stride(2) +
                   x * level.deltas.stride(3);
  const float deltas[4] = {static_cast<float>(at[0]), static_cast<float>(at[step]),
                           static_cast<float>(at[2 * step]), static_cast<float>(at[3 * step])};
  return decode(deltas, anchors + 4 * (level.first_anchor + anchor));
}

template <typename scalar_t>
void write_candidates(const Job& job, int64_t image, const std::vector<uint64_t>& keys) {
  const int64_t first = image * job.num_candidates;
  const Places places{job.places.boxes + 4 * first, job.places.scores + first,
                      job.places.labels + first, job.places.anchors + first};
  const auto score_threshold = static_cast<float>(job.score_threshold);
  for (size_t place = 0; place < keys.size(); ++place) {
    const float score = 1.f / (1.f + std::exp(-logit_of(keys[place])));
    if (!(score > score_threshold)) continue;
    const int64_t pair = pair_of(keys[place]), anchor = pair / job.num_classes;
    auto level = job.levels.end() - 1;
    while (level->first_anchor > anchor) --level;
    const Box box = decode_at<scalar_t>(*level, image, anchor - level->first_anchor, job.anchors);
    if (!is_finite(box)) continue;
    std::memcpy(places.boxes + 4 * place, &box, sizeof box);
    places.scores[place] = score;
    places.labels[place] = pair - anchor * job.num_classes;
    places.anchors[place] = anchor;
  }
}

// A logit that every score above the threshold exceeds, slightly low: scores are rounded.
float logit_floor(double score_threshold) {
  const double low = score_threshold - 1e-6 - 1e-5 * score_threshold;
  if (!(low > 0)) return -std::numeric_limits<float>::infinity();
  return static_cast<float>(std::log(low / (1 - low)) - 1e-5);
}

// The logit that about two to three times as many pairs of the image reach as are wanted, by a
// sample of all levels; minus infinity where the image is too small for a sample to pay.
template <typename scalar_t>
float sampled_floor(const Job& job, int64_t image) {
  constexpr int64_t kSamples = 1 << 14;
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const int64_t total = total_values(job.levels), stride = total / kSamples;
  // Of the wanted pairs, `expected` are in the sample; four standard deviations more are taken.
  const double expected = double(job.num_candidates) / std::max<int64_t>(stride, 1);
  const auto rank = static_cast<int64_t>(expected + 4 * std::sqrt(expected) + 8);
  if (stride < 2 || rank > kSamples / 4) return kNone;
  std::vector<float> sample;
  // Random steps: a constant one might meet the same few classes again and again.
  uint32_t random = 1;
  const auto step = [&] {
    random = random * 1664525u + 1013904223u;
    return 1 + int64_t(random >> 8) % (2 * stride - 1);
  };
  int64_t at = step();  // in the level
  for (const OutputLevel& level : job.levels) {
    const auto* values = static_cast<const scalar_t*>(level.logits.const_data_ptr()) +
                         image * level.values_per_image();
    for (; at < level.values_per_image(); at += step()) {
      const float logit = static_cast<float>(values[at]);
      if (!std::isnan(logit) && !job.is_excluded(level.pair_at(at))) sample.push_back(logit);
    }
    at -= level.values_per_image();
  }
  if (rank >= int64_t(sample.size())) return kNone;
  std::nth_element(sample.begin(), sample.begin() + rank, sample.end(), std::greater<>());
  return sample[rank];
}

// The best keys of some images, each image's logits in `num_parts` parts, from its floor on.
template <typename scalar_t>
std::vector<BestKeys> best_of(const Job& job, const std::vector<int64_t>& images,
                              const std::vector<float>& floors) {
  // More parts than images only for more threads than images: each part must find its own floor.
  const int64_t num_images = images.size(), num_threads = torch::stable::get_num_threads();
  const int64_t num_parts = std::min<int64_t>(16, (num_threads - 1) / num_images + 1);
  std::vector<BestKeys> best;
  for (int64_t task = 0; task < num_images * num_parts; ++task)
    best.emplace_back(job.num_candidates, floors[task / num_parts]);
  torch::stable::parallel_for(0, best.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      scan_part<scalar_t>(job, images[task / num_parts], task % num_parts, num_parts, best[task]);
  });
  std::vector<BestKeys> merged;
  for (int64_t i = 0; i < num_images; ++i) {
    merged.push_back(std::move(best[i * num_parts]));
    for (int64_t part = 1; part < num_parts; ++part) merged[i].merge(best[i * num_parts + part]);
  }
  return merged;
}

template <typename scalar_t>
std::vector<BestKeys> best_of_images(const Job& job) {
  const float lowest = logit_floor(job.score_threshold);
  std::vector<int64_t> images(job.num_images);
  std::iota(images.begin(), images.end(), 0);
  std::vector<float> floors(job.num_images);
  torch::stable::parallel_for(0, job.num_images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image)
      floors[image] = std::max(lowest, sampled_floor<scalar_t>(job, image));
  });
  std::vector<BestKeys> best = best_of<scalar_t>(job, images, floors);

  std::vector<int64_t> again;
  for (const int64_t image : images)
    if (best[image].size() < job.num_candidates && floors[image] > lowest) again.push_back(image);
  if (again.empty()) return best;
  auto found = best_of<scalar_t>(job, again, std::vector<float>(again.size(), lowest));
  for (size_t i = 0; i < again.size(); ++i) best[again[i]] = std::move(found[i]);
  return best;
}

template <typename logit_t>
void select(const Job& job, ScalarType delta_type) {
  std::vector<BestKeys> best = best_of_images<logit_t>(job);
  torch::stable::parallel_for(0, job.num_images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      const auto write = delta_type == ScalarType::Float      ? write_candidates<float>
                         : delta_type == ScalarType::Half     ? write_candidates<Half>
                         : delta_type == ScalarType::BFloat16 ? write_candidates<BFloat16>
                                                              : write_candidates<double>;
      write(job, image, best[image].finish());
    }
  });
}

bool is_float(ScalarType type) {
  return type == ScalarType::Half || type == ScalarType::BFloat16 || type == ScalarType::Float ||
         type == ScalarType::Double;
}

std::vector<OutputLevel> read_levels(const std::vector<Tensor>& cls_logits,
                                     const std::vector<Tensor>& box_deltas, int64_t num_classes) {
  STD_TORCH_CHECK(!cls_logits.empty() && cls_logits.size() == box_deltas.size(),
                  "select_candidates: cls_logits and box_deltas must have the same levels");
  std::vector<OutputLevel> levels;
  int64_t first_anchor = 0;
  for (size_t l = 0; l < cls_logits.size(); ++l) {
    Tensor logits = cls_logits[l], deltas = box_deltas[l];
    STD_TORCH_CHECK(
        logits.dim() == 4 && deltas.dim() == 4 && logits.is_cpu() && deltas.is_cpu() &&
            logits.scalar_type() == cls_logits[0].scalar_type() &&
            deltas.scalar_type() == box_deltas[0].scalar_type() && is_float(logits.scalar_type()) &&
            is_float(deltas.scalar_type()),
        "select_candidates: levels must be 4-dimensional floats of one type and device");
    const int64_t anchors_per_location = deltas.size(1) / 4, area = logits.size(2) * logits.size(3);
    STD_TORCH_CHECK(
        deltas.size(1) % 4 == 0 && logits.size(1) == anchors_per_location * num_classes &&
            logits.size(0) == cls_logits[0].size(0) && deltas.size(0) == logits.size(0) &&
            deltas.size(2) == logits.size(2) && deltas.size(3) == logits.size(3),
        "select_candidates: the shapes of level ", l, " do not belong together");
    // float64 is compared as float32, as in the definition.
    if (logits.scalar_type() == ScalarType::Double)
      logits = torch::stable::to(logits, ScalarType::Float);
    const bool channels_last = lies_in_order(logits, {0, 2, 3, 1});
    if (!channels_last) logits = torch::stable::contiguous(logits);
    levels.push_back({logits, deltas, channels_last, logits.size(1), area, logits.size(3),
                      anchors_per_location, first_anchor * num_classes, first_anchor});
    first_anchor += anchors_per_location * area;
  }
  return levels;
}

std::vector<char> read_excluded(const std::vector<int64_t>& exclude, int64_t num_classes) {
  std::vector<char> excluded(exclude.empty() ? 0 : num_classes);
  for (const int64_t label : exclude) {
    STD_TORCH_CHECK(label >= 0 && label < num_classes, "select_candidates: exclude must hold ",
                    "classes in [0, ", num_classes, "), got ", label);
    excluded[label] = 1;
  }
  return excluded;
}

// effdet::select_candidates
std::tuple<Tensor, Tensor, Tensor, Tensor> select_candidates(std::vector<Tensor> cls_logits,
                                                             std::vector<Tensor> box_deltas,
                                                             Tensor anchors, int64_t num_classes,
                                                             int64_t max_candidates,
                                                             double score_threshold,
                                                             std::vector<int64_t> exclude) {
  STD_TORCH_CHECK(num_classes > 0 && max_candidates > 0 && score_threshold >= 0,
                  "select_candidates: num_classes and max_candidates must be at least 1, "
                  "score_threshold at least 0");
  std::vector<OutputLevel> levels = read_levels(cls_logits, box_deltas, num_classes);
  const int64_t num_images = cls_logits[0].size(0);
  int64_t num_anchors = 0;
  for (const OutputLevel& level : levels) num_anchors += level.anchors_per_location * level.area;
  STD_TORCH_CHECK(anchors.dim() == 2 && anchors.size(0) == num_anchors && anchors.size(1) == 4 &&
                      anchors.is_cpu() && anchors.scalar_type() == ScalarType::Float,
                  "select_candidates: anchors must be float32 [", num_anchors, ", 4]");
  STD_TORCH_CHECK(num_anchors <= ((int64_t(1) << 32) - 1) / num_classes,
                  "select_candidates: more than 2^32 - 1 values an image");
  anchors = torch::stable::contiguous(anchors);
  const int64_t count = std::min(max_candidates, num_anchors * num_classes);
  Tensor boxes = torch::stable::new_zeros(anchors, {num_images, count, 4});
  Tensor scores = torch::stable::new_empty(anchors, {num_images, count});
  torch::stable::fill_(scores, kRemoved);
  Tensor labels = torch::stable::new_zeros(anchors, {num_images, count}, ScalarType::Long);
  Tensor index = torch::stable::new_zeros(anchors, {num_images, count}, ScalarType::Long);
  if (num_images == 0 || count == 0) return {boxes, scores, labels, index};

  const Job job{std::move(levels),
                read_excluded(exclude, num_classes),
                num_images,
                num_classes,
                count,
                score_threshold,
                static_cast<const float*>(anchors.const_data_ptr()),
                {static_cast<float*>(boxes.mutable_data_ptr()),
                 static_cast<float*>(scores.mutable_data_ptr()),
                 static_cast<int64_t*>(labels.mutable_data_ptr()),
                 static_cast<int64_t*>(index.mutable_data_ptr())}};
  const ScalarType delta_type = box_deltas[0].scalar_type();
  switch (job.levels[0].logits.scalar_type()) {
    case ScalarType::Half:
      select<Half>(job, delta_type);
      break;
    case ScalarType::BFloat16:
      select<BFloat16>(job, delta_type);
      break;
    default:
      select<float>(job, delta_type);
  }
  return {boxes, scores, labels, index};
}

}  // namespace
}  // namespace effdet

STABLE_TORCH_LIBRARY_IMPL(effdet, CPU, library) {
  library.impl("select_candidates", TORCH_BOX(&effdet::select_candidates));
}
