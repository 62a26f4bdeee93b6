// SPDX-License-Identifier: Apache-2.0
// Non-maximum suppression of a batch, on the CPU. The definition stands in effdet/ops/nms.py.
//
// The definition lets each pick act on all candidates. Here a candidate is looked at only when it
// is the best one left, and then meets the picks of its class that it has not met. That gives the
// same picks, since an overlap never raises a score, and nearly all candidates are never looked at.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <queue>
#include <string>
#include <tuple>
#include <vector>

#include "../common/codes.h"
#include "nms.h"
#include "radix_sort.h"

namespace effdet {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum class Method { hard, linear, gaussian };

struct Settings {
  Method method;
  float iou_threshold, exponent, score_threshold;
  int64_t max_detections, max_per_class;
  bool class_agnostic;
};

// The candidates of one image: [C, 4], [C], [C].
struct Candidates {
  const float* boxes;
  const float* scores;
  const int64_t* labels;
  int64_t size;
};

// Score above index, so that the larger key is the better candidate. Scores above a threshold of
// at least 0 are ordered like their bits.
uint64_t key_of(float score, int64_t index) {
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return uint64_t(bits) << 32 | uint32_t(~uint32_t(index));
}

float score_of(uint64_t key) {
  const uint32_t bits = uint32_t(key >> 32);
  float score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

int64_t index_of(uint64_t key) { return uint32_t(~uint32_t(key)); }

// Keys of the candidates above the threshold, best first.
std::vector<uint64_t> ranked(const Candidates& candidates, float score_threshold) {
  std::vector<uint64_t> keys;
  keys.reserve(candidates.size);
  for (int64_t i = 0; i < candidates.size; ++i)
    if (candidates.scores[i] > score_threshold) keys.push_back(key_of(candidates.scores[i], i));
  sort_descending(keys);
  return keys;
}

// Numbers from 0 for the labels that occur, whatever their values.
class LabelNumbers {
 public:
  LabelNumbers(const int64_t* labels, const std::vector<uint64_t>& keys) {
    if (keys.empty()) return;
    int64_t highest = lowest_ = labels[index_of(keys[0])];
    for (const uint64_t key : keys) {
      lowest_ = std::min(lowest_, labels[index_of(key)]);
      highest = std::max(highest, labels[index_of(key)]);
    }
    const uint64_t range = uint64_t(highest) - uint64_t(lowest_);
    if (range < 4 * keys.size() + 1024) {
      size_ = range + 1;
      return;
    }
    for (const uint64_t key : keys) sorted_.push_back(labels[index_of(key)]);
    std::sort(sorted_.begin(), sorted_.end());
    sorted_.erase(std::unique(sorted_.begin(), sorted_.end()), sorted_.end());
    size_ = sorted_.size();
  }

  size_t size() const { return size_; }

  size_t operator[](int64_t label) const {
    if (sorted_.empty()) return label - lowest_;
    return std::lower_bound(sorted_.begin(), sorted_.end(), label) - sorted_.begin();
  }

 private:
  int64_t lowest_ = 0;
  size_t size_ = 0;
  std::vector<int64_t> sorted_;  // where they lie too far apart to be numbers themselves
};

// The picked boxes of each group, in blocks that are chained in the order of the picks.
class PickedBoxes {
 public:
  explicit PickedBoxes(size_t num_groups) : groups_(num_groups) {}

  int64_t count(size_t group) const { return groups_[group].count; }

  void add(size_t group, const CandidateBox& box) {
    Group& g = groups_[group];
    const int lane = g.count++ % kPickedLanes;
    if (lane == 0) append_block(g);
    PickedBlock& block = blocks_[g.last];
    block.x1[lane] = box.x1;
    block.y1[lane] = box.y1;
    block.x2[lane] = box.x2;
    block.y2[lane] = box.y2;
    block.area[lane] = box.area;
  }

  bool overlap(size_t group, const CandidateBox& box, float iou_threshold) const {
    const auto overlaps = EFFDET_SIMD(overlaps_any);
    for (int64_t b = groups_[group].first; b >= 0; b = next_[b])
      if (overlaps(blocks_[b], box, iou_threshold)) return true;
    return false;
  }

  // The score after the group's picks from number `met` on, taken off one by one in their order.
  float decay(size_t group, int64_t met, const CandidateBox& box, float score,
              const Settings& settings) const {
    const auto factors_of = settings.method == Method::linear ? EFFDET_SIMD(linear_factors)
                                                              : EFFDET_SIMD(gaussian_factors);
    const float setting =
        settings.method == Method::linear ? settings.iou_threshold : settings.exponent;
    float factors[kPickedLanes];
    int64_t begin = 0;
    for (int64_t b = groups_[group].first; b >= 0; b = next_[b], begin += kPickedLanes) {
      if (begin + kPickedLanes <= met) continue;
      factors_of(blocks_[b], box, setting, factors);
      for (int64_t i = std::max<int64_t>(0, met - begin); i < kPickedLanes; ++i)
        score *= factors[i];
    }
    return score;
  }

 private:
  struct Group {
    int64_t first = -1, last = -1, count = 0;
  };

  void append_block(Group& group) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    PickedBlock& block = blocks_.emplace_back();
    std::fill_n(block.x1, 2 * kPickedLanes, kInfinity);
    std::fill_n(block.x2, 2 * kPickedLanes, -kInfinity);
    std::fill_n(block.area, kPickedLanes, 0.f);
    next_.push_back(-1);
    const int64_t added = int64_t(blocks_.size()) - 1;
    (group.first < 0 ? group.first : next_[group.last]) = added;
    group.last = added;
  }

  std::vector<Group> groups_;
  std::vector<PickedBlock> blocks_;
  std::vector<int64_t> next_;  // of each block, -1 after a group's last
};

// A candidate that has lost score, and how many picks of its group it has met.
struct Waiting {
  uint64_t key;
  int64_t met;
  bool operator<(const Waiting& other) const { return key < other.key; }
};

// All that is left of an image's candidates, best first.
class Queue {
 public:
  explicit Queue(std::vector<uint64_t> fresh) : fresh_(std::move(fresh)) {}

  // Key of the best one; 0, which no candidate has, where nothing is left.
  uint64_t best() const {
    const uint64_t fresh = next_ < fresh_.size() ? fresh_[next_] : 0;
    return waiting_.empty() ? fresh : std::max(fresh, waiting_.top().key);
  }

  Waiting pop() {
    if (waiting_.empty() || (next_ < fresh_.size() && fresh_[next_] > waiting_.top().key))
      return {fresh_[next_++], 0};
    const Waiting top = waiting_.top();
    waiting_.pop();
    return top;
  }

  void push(const Waiting& candidate) { waiting_.push(candidate); }

 private:
  std::vector<uint64_t> fresh_;
  size_t next_ = 0;
  std::priority_queue<Waiting> waiting_;
};

CandidateBox box_at(const float* box) {
  return {box[0], box[1], box[2], box[3], (box[2] - box[0]) * (box[3] - box[1])};
}

// Picks of one image into `picks` and `scores`, which have room for `max_detections`; their number.
int64_t suppress(const Candidates& candidates, const Settings& settings, int64_t* picks,
                 float* scores) {
  std::vector<uint64_t> keys = ranked(candidates, settings.score_threshold);
  const LabelNumbers numbers(candidates.labels, keys);
  std::vector<int64_t> per_class(settings.max_per_class ? numbers.size() : 0);
  PickedBoxes picked(settings.class_agnostic ? 1 : numbers.size());
  Queue queue(std::move(keys));
  int64_t count = 0;
  while (count < settings.max_detections && queue.best()) {
    const auto [key, met] = queue.pop();
    const int64_t index = index_of(key);
    const size_t number = numbers[candidates.labels[index]];
    if (settings.max_per_class && per_class[number] >= settings.max_per_class) continue;
    const size_t group = settings.class_agnostic ? 0 : number;
    const CandidateBox box = box_at(candidates.boxes + 4 * index);
    float score = score_of(key);
    if (settings.method == Method::hard) {
      if (picked.overlap(group, box, settings.iou_threshold)) continue;
    } else {
      score = picked.decay(group, met, box, score, settings);
      if (!(score > settings.score_threshold)) continue;
      const uint64_t decayed = key_of(score, index);
      if (decayed < queue.best()) {
        queue.push({decayed, picked.count(group)});
        continue;
      }
    }
    picked.add(group, box);
    if (settings.max_per_class) ++per_class[number];
    picks[count] = index;
    scores[count++] = score;
  }
  return count;
}

Method method_of(const std::string& name) {
  if (name == "hard") return Method::hard;
  if (name == "linear") return Method::linear;
  STD_TORCH_CHECK(name == "gaussian", "nms: method must be gaussian, linear or hard, got ", name);
  return Method::gaussian;
}

// The largest float32 not above `value`: a float32 is above the one exactly if above the other.
float float_at_most(double value) {
  const float nearest = static_cast<float>(value);
  return nearest > value ? std::nextafter(nearest, -std::numeric_limits<float>::infinity())
                         : nearest;
}

// -log2(e) / sigma, finite so that no overlap (0) times it is 0.
float gaussian_exponent(double sigma) {
  constexpr double kLog2E = 1.4426950408889634;
  return static_cast<float>(std::max(-kLog2E / sigma, -1e38));
}

// effdet::nms
std::tuple<Tensor, Tensor, Tensor> nms(Tensor boxes, Tensor scores, Tensor labels,
                                       std::string method, double iou_threshold, double sigma,
                                       double score_threshold, int64_t max_detections,
                                       int64_t max_per_class, bool class_agnostic) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4 && scores.dim() == 2 &&
                      labels.dim() == 2 && scores.size(0) == boxes.size(0) &&
                      scores.size(1) == boxes.size(1) && labels.size(0) == boxes.size(0) &&
                      labels.size(1) == boxes.size(1),
                  "nms: boxes must be [B, C, 4], scores and labels [B, C]");
  STD_TORCH_CHECK(boxes.is_cpu() && scores.is_cpu() && labels.is_cpu() &&
                      boxes.scalar_type() == ScalarType::Float &&
                      scores.scalar_type() == ScalarType::Float &&
                      labels.scalar_type() == ScalarType::Long,
                  "nms: boxes and scores must be float32 and labels int64, all on one device");
  STD_TORCH_CHECK(boxes.size(1) < int64_t(1) << 32, "nms: C must be below 2^32");
  STD_TORCH_CHECK(score_threshold >= 0 && sigma > 0 && max_detections >= 0 && max_per_class >= 0,
                  "nms: score_threshold, max_detections and max_per_class must be at least 0, "
                  "sigma above 0");
  boxes = torch::stable::contiguous(boxes);
  scores = torch::stable::contiguous(scores);
  labels = torch::stable::contiguous(labels);
  const int64_t num_images = boxes.size(0), num_candidates = boxes.size(1);
  const int64_t num_places = std::min(max_detections, num_candidates);
  const Settings settings{method_of(method),
                          float_at_most(iou_threshold),
                          gaussian_exponent(sigma),
                          static_cast<float>(score_threshold),
                          num_places,
                          max_per_class,
                          class_agnostic};
  Tensor picks = torch::stable::new_zeros(boxes, {num_images, num_places}, ScalarType::Long);
  Tensor kept = torch::stable::new_empty(boxes, {num_images, num_places}, ScalarType::Float);
  torch::stable::fill_(kept, kRemoved);
  Tensor counts = torch::stable::new_empty(boxes, {num_images}, ScalarType::Long);
  const auto* box = static_cast<const float*>(boxes.const_data_ptr());
  const auto* score = static_cast<const float*>(scores.const_data_ptr());
  const auto* label = static_cast<const int64_t*>(labels.const_data_ptr());
  auto* pick = static_cast<int64_t*>(picks.mutable_data_ptr());
  auto* keep = static_cast<float*>(kept.mutable_data_ptr());
  auto* count = static_cast<int64_t*>(counts.mutable_data_ptr());
  torch::stable::parallel_for(0, num_images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * num_candidates, place = b * num_places;
      const Candidates image{box + 4 * first, score + first, label + first, num_candidates};
      count[b] = suppress(image, settings, pick + place, keep + place);
    }
  });
  return {picks, kept, counts};
}

}  // namespace
}  // namespace effdet

STABLE_TORCH_LIBRARY_IMPL(effdet, CPU, library) { library.impl("nms", TORCH_BOX(&effdet::nms)); }
