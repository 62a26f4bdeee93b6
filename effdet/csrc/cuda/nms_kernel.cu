// SPDX-License-Identifier: Apache-2.0
// Non-maximum suppression on CUDA: effdet::nms.
//
// The meaning of the arguments stands in effdet/ops/nms.py. One launch, nothing copied to the host.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "launch.h"
#include "nms.cuh"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMaxImages = INT32_MAX;
constexpr int64_t kMaxCandidates = INT32_MAX - effdet::kNmsThreads;

effdet::NmsMethod method_by_name(const std::string& name) {
  if (name == "hard") return effdet::NmsMethod::hard;
  if (name == "linear") return effdet::NmsMethod::linear;
  STD_TORCH_CHECK(name == "gaussian", "nms: method must be gaussian, linear or hard, got ", name);
  return effdet::NmsMethod::gaussian;
}

void check(const Tensor& boxes, const Tensor& scores, const Tensor& labels) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4 && scores.dim() == 2 &&
                      scores.size(0) == boxes.size(0) && scores.size(1) == boxes.size(1) &&
                      labels.dim() == 2 && labels.size(0) == boxes.size(0) &&
                      labels.size(1) == boxes.size(1),
                  "nms: boxes must be [B, C, 4], scores and labels [B, C]");
  STD_TORCH_CHECK(boxes.scalar_type() == ScalarType::Float &&
                      scores.scalar_type() == ScalarType::Float &&
                      labels.scalar_type() == ScalarType::Long,
                  "nms: boxes and scores must be float32 and labels int64");
  STD_TORCH_CHECK(effdet::on_device_of(scores, boxes) && effdet::on_device_of(labels, boxes),
                  "nms: scores and labels must be on the device of the boxes");
  STD_TORCH_CHECK(boxes.size(0) <= kMaxImages && boxes.size(1) <= kMaxCandidates,
                  "nms: on CUDA there must be at most ", kMaxImages, " images of ", kMaxCandidates,
                  " candidates, got ", boxes.size(0), " of ", boxes.size(1));
}

// effdet::nms
std::tuple<Tensor, Tensor, Tensor> nms(Tensor boxes, Tensor scores, Tensor labels,
                                       std::string method, double iou_threshold, double sigma,
                                       double score_threshold, int64_t max_detections,
                                       int64_t max_per_class, bool class_agnostic) {
  check(boxes, scores, labels);
  STD_TORCH_CHECK(score_threshold >= 0, "nms: score_threshold must be at least 0, got ",
                  score_threshold);
  STD_TORCH_CHECK(static_cast<float>(sigma) > 0, "nms: sigma must be above 0 in float32, got ",
                  sigma);
  STD_TORCH_CHECK(max_detections >= 0 && max_per_class >= 0,
                  "nms: max_detections and max_per_class must not be negative");
  const effdet::Launcher launch(boxes);
  boxes = effdet::aligned(boxes);
  scores = torch::stable::contiguous(scores);
  labels = torch::stable::contiguous(labels);
  const int64_t num_images = scores.size(0), num_candidates = scores.size(1);
  const int64_t num_picks = std::min(max_detections, num_candidates);
  Tensor picks = torch::stable::new_empty(labels, {num_images, num_picks});
  Tensor pick_scores = torch::stable::new_empty(scores, {num_images, num_picks});
  Tensor counts = torch::stable::new_zeros(labels, {num_images});
  if (num_images == 0 || num_picks == 0) return {picks, pick_scores, counts};

  const bool in_registers = num_candidates <= effdet::kMaxCandidatesInRegisters;
  const int64_t rest = in_registers ? 0 : num_candidates;
  Tensor remaining = torch::stable::new_empty(scores, {num_images, rest});
  Tensor class_picks = torch::stable::new_empty(scores, {num_images, rest}, ScalarType::Int);
  effdet::NmsArguments args{};
  args.boxes = effdet::read_only<effdet::Box>(boxes);
  args.scores = effdet::read_only<float>(scores);
  args.labels = effdet::read_only<int64_t>(labels);
  args.picks = effdet::writable<int64_t>(picks);
  args.pick_scores = effdet::writable<float>(pick_scores);
  args.counts = effdet::writable<int64_t>(counts);
  args.remaining = effdet::writable<float>(remaining);
  args.class_picks = effdet::writable<uint32_t>(class_picks);
  args.num_candidates = static_cast<uint32_t>(num_candidates);
  args.num_picks = static_cast<uint32_t>(num_picks);
  args.method = method_by_name(method);
  args.iou_threshold = effdet::largest_float_up_to(iou_threshold);
  args.sigma = static_cast<float>(sigma);
  args.score_threshold = static_cast<float>(score_threshold);
  args.max_per_class = effdet::limit_per_class(max_per_class);
  args.class_agnostic = class_agnostic;
  effdet::launch_suppression(launch, args, static_cast<uint32_t>(num_images));
  return {picks, pick_scores, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) { library.impl("nms", TORCH_BOX(&nms)); }
