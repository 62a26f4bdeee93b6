// SPDX-License-Identifier: Apache-2.0
// The best (anchor, class) pairs on CUDA: effdet::select_candidates.
//
// The meaning of the arguments stands in effdet/ops/select_candidates.py. Nothing is copied to the
// host. Two launches read all logits; the others are small or return at once.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "launch.h"
#include "level_tensors.h"
#include "select_candidates.cuh"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Candidates of an image: the ranks that are sorted, with room for more, are counted in 32 bits.
constexpr int64_t kMaxCandidates = int64_t{1} << 28;

struct Outputs {
  Tensor boxes, scores, labels, anchor_index;
};

std::vector<Tensor> as_float(std::vector<Tensor> levels) {
  for (Tensor& level : levels) level = torch::stable::to(level, ScalarType::Float);
  return levels;
}

void check(const std::vector<Tensor>& cls_logits, const std::vector<Tensor>& box_deltas,
           const Tensor& anchors, int64_t num_classes, int64_t max_candidates,
           double score_threshold, const std::vector<int64_t>& exclude) {
  STD_TORCH_CHECK(anchors.dim() == 2 && anchors.size(1) == 4 && anchors.is_cuda() &&
                      anchors.scalar_type() == ScalarType::Float,
                  "select_candidates: anchors must be [A, 4] float32 on a CUDA device");
  effdet::check_num_levels(cls_logits, "select_candidates");
  STD_TORCH_CHECK(cls_logits.size() == box_deltas.size() && cls_logits[0].dim() == 4,
                  "select_candidates: cls_logits and box_deltas must have the same levels, got ",
                  cls_logits.size(), " and ", box_deltas.size());
  STD_TORCH_CHECK(effdet::on_device_of(cls_logits[0], anchors) &&
                      effdet::on_device_of(box_deltas[0], anchors) &&
                      cls_logits[0].scalar_type() == box_deltas[0].scalar_type(),
                  "select_candidates: cls_logits and box_deltas must have one dtype and be on the "
                  "device of the anchors");
  STD_TORCH_CHECK(num_classes >= 1, "select_candidates: num_classes must be at least 1, got ",
                  num_classes);
  STD_TORCH_CHECK(anchors.size(0) <= UINT32_MAX / num_classes,
                  "select_candidates: an image must have fewer than 2^32 pairs, got ",
                  anchors.size(0), " anchors of ", num_classes, " classes");
  STD_TORCH_CHECK(max_candidates >= 1, "select_candidates: max_candidates must be at least 1");
  STD_TORCH_CHECK(score_threshold >= 0 && score_threshold <= 1,
                  "select_candidates: score_threshold must be in [0, 1], got ", score_threshold);
  for (int64_t label : exclude) {
    STD_TORCH_CHECK(label >= 0 && label < num_classes, "select_candidates: exclude must be in [0, ",
                    num_classes, "), got ", label);
  }
}

template <typename scalar_t>
effdet::CandidateLevels describe(const std::vector<Tensor>& cls_logits,
                                 const std::vector<Tensor>& box_deltas, int64_t num_classes) {
  effdet::CandidateLevels all;
  all.num_classes = static_cast<uint32_t>(num_classes);
  for (size_t i = 0; i < cls_logits.size(); ++i) {
    const Tensor &logits = cls_logits[i], &deltas = box_deltas[i];
    STD_TORCH_CHECK(deltas.size(1) / 4 == logits.size(1) / num_classes &&
                        deltas.size(2) == logits.size(2) && deltas.size(3) == logits.size(3),
                    "select_candidates: box_deltas and cls_logits must have the same anchors");
    effdet::add_candidate_level<scalar_t>(all, logits.const_data_ptr(), effdet::layout_of(logits),
                                          deltas.const_data_ptr(), effdet::layout_of(deltas),
                                          static_cast<uint32_t>(logits.size(2) * logits.size(3)),
                                          static_cast<uint32_t>(logits.size(1) / num_classes));
  }
  return all;
}

template <typename scalar_t>
void select_into(const Outputs& outputs, const std::vector<Tensor>& cls_logits,
                 const std::vector<Tensor>& box_deltas, const Tensor& anchors, int64_t num_classes,
                 double score_threshold, const std::vector<int64_t>& exclude) {
  const effdet::Launcher launch(anchors);
  const auto all = describe<scalar_t>(cls_logits, box_deltas, num_classes);
  const int64_t num_images = outputs.scores.size(0);
  const auto selection = effdet::plan_selection<scalar_t>(
      all.num_pairs, static_cast<uint32_t>(outputs.scores.size(1)), score_threshold);

  const auto bytes = [&](int64_t size) {
    return torch::stable::new_empty(anchors, {size}, ScalarType::Byte);
  };
  const bool in_shared = effdet::sorts_in_shared<scalar_t>(launch, selection);
  Tensor cuts = bytes(num_images * sizeof(effdet::Cut));
  Tensor histograms = bytes(num_images * effdet::kBins * sizeof(uint32_t));
  Tensor excluded = bytes(exclude.empty() ? 0 : (num_classes + 31) / 32 * sizeof(uint32_t));
  Tensor collected = bytes(num_images * selection.capacity * sizeof(uint64_t));
  Tensor sorted = bytes(in_shared ? 0 : num_images * effdet::sort_bytes(selection));
  effdet::SelectionWorkspace workspace{};
  workspace.cuts = effdet::writable<effdet::Cut>(cuts);
  workspace.histograms = effdet::writable<uint32_t>(histograms);
  workspace.excluded = exclude.empty() ? nullptr : effdet::writable<uint32_t>(excluded);
  workspace.collected = effdet::writable<uint64_t>(collected);
  workspace.sorted = in_shared ? nullptr : effdet::writable<uint64_t>(sorted);

  effdet::CandidateOutputs out{};
  out.boxes = effdet::writable<effdet::Box>(outputs.boxes);
  out.scores = effdet::writable<float>(outputs.scores);
  out.labels = effdet::writable<int64_t>(outputs.labels);
  out.anchor_index = effdet::writable<int64_t>(outputs.anchor_index);
  effdet::launch_selection<scalar_t>(launch, all, selection, workspace,
                                     static_cast<uint32_t>(num_images), exclude.data(),
                                     exclude.size(), effdet::read_only<effdet::Box>(anchors), out);
}

// effdet::select_candidates
std::tuple<Tensor, Tensor, Tensor, Tensor> select_candidates(std::vector<Tensor> cls_logits,
                                                             std::vector<Tensor> box_deltas,
                                                             Tensor anchors, int64_t num_classes,
                                                             int64_t max_candidates,
                                                             double score_threshold,
                                                             std::vector<int64_t> exclude) {
  check(cls_logits, box_deltas, anchors, num_classes, max_candidates, score_threshold, exclude);
  const int64_t num_images = cls_logits[0].size(0), num_anchors = anchors.size(0);
  const torch::stable::accelerator::DeviceGuard guard(anchors.get_device_index());
  if (cls_logits[0].scalar_type() == ScalarType::Double) {
    cls_logits = as_float(std::move(cls_logits));
    box_deltas = as_float(std::move(box_deltas));
  }
  cls_logits = effdet::readable_levels(std::move(cls_logits), num_classes, num_images, num_anchors,
                                       "select_candidates: cls_logits");
  box_deltas = effdet::readable_levels(std::move(box_deltas), 4, num_images, num_anchors,
                                       "select_candidates: box_deltas");
  anchors = effdet::aligned(anchors);
  const int64_t count = std::min(max_candidates, num_anchors * num_classes);
  STD_TORCH_CHECK(count <= kMaxCandidates,
                  "select_candidates: on CUDA there must be at most 2^28 = ", kMaxCandidates,
                  " candidates of an image, got ", count);
  Outputs outputs{torch::stable::new_empty(anchors, {num_images, count, 4}, ScalarType::Float),
                  torch::stable::new_empty(anchors, {num_images, count}, ScalarType::Float),
                  torch::stable::new_empty(anchors, {num_images, count}, ScalarType::Long),
                  torch::stable::new_empty(anchors, {num_images, count}, ScalarType::Long)};
  if (num_images > 0 && count > 0) {
    switch (cls_logits[0].scalar_type()) {
      case ScalarType::Float:
        select_into<float>(outputs, cls_logits, box_deltas, anchors, num_classes, score_threshold,
                           exclude);
        break;
      case ScalarType::Half:
        select_into<__half>(outputs, cls_logits, box_deltas, anchors, num_classes, score_threshold,
                            exclude);
        break;
      case ScalarType::BFloat16:
        select_into<__nv_bfloat16>(outputs, cls_logits, box_deltas, anchors, num_classes,
                                   score_threshold, exclude);
        break;
      default:
        STD_TORCH_CHECK(false,
                        "select_candidates: cls_logits must be float16, bfloat16, float32 "
                        "or float64");
    }
  }
  return {outputs.boxes, outputs.scores, outputs.labels, outputs.anchor_index};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) {
  library.impl("select_candidates", TORCH_BOX(&select_candidates));
}
