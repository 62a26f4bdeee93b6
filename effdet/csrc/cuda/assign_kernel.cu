// SPDX-License-Identifier: Apache-2.0
// Target assignment on CUDA: effdet::assign_anchors.
//
// The meaning of the arguments stands in effdet/ops/assign.py. Nothing is copied to the host.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "assign.cuh"
#include "launch.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check(const Tensor& anchors, const Tensor& boxes, const Tensor& labels) {
  STD_TORCH_CHECK(anchors.dim() == 2 && anchors.size(1) == 4 && boxes.dim() == 3 &&
                      boxes.size(2) == 4 && labels.dim() == 2 && labels.size(0) == boxes.size(0) &&
                      labels.size(1) == boxes.size(1),
                  "assign_anchors: anchors must be [A, 4], boxes [B, M, 4] and labels [B, M]");
  STD_TORCH_CHECK(anchors.scalar_type() == ScalarType::Float &&
                      boxes.scalar_type() == ScalarType::Float &&
                      labels.scalar_type() == ScalarType::Long,
                  "assign_anchors: anchors and boxes must be float32 and labels int64");
  STD_TORCH_CHECK(effdet::on_device_of(boxes, anchors) && effdet::on_device_of(labels, anchors),
                  "assign_anchors: boxes and labels must be on the device of the anchors");
  STD_TORCH_CHECK(anchors.size(0) < INT32_MAX && boxes.size(1) < INT32_MAX,
                  "assign_anchors: there must be fewer than ", INT32_MAX,
                  " anchors and boxes of an image, got ", anchors.size(0), " and ", boxes.size(1));
}

// effdet::assign_anchors
std::tuple<Tensor, Tensor, Tensor> assign_anchors(Tensor anchors, Tensor boxes, Tensor labels,
                                                  double foreground_iou, double crowd_overlap) {
  check(anchors, boxes, labels);
  const effdet::Launcher launch(anchors);
  anchors = effdet::aligned(anchors);
  boxes = effdet::aligned(boxes);
  labels = torch::stable::contiguous(labels);
  const int64_t num_images = boxes.size(0), num_boxes = boxes.size(1),
                num_anchors = anchors.size(0);
  Tensor matched = torch::stable::new_empty(anchors, {num_images, num_anchors}, ScalarType::Int);
  Tensor cls_targets = torch::stable::empty_like(matched);
  Tensor num_foreground = torch::stable::new_zeros(anchors, {}, ScalarType::Float);
  if (num_images == 0 || num_anchors == 0) return {matched, cls_targets, num_foreground};
  // Best anchors of the boxes, and two counts.
  Tensor workspace =
      torch::stable::new_zeros(anchors, {num_images * num_boxes + 2}, ScalarType::Long);

  effdet::AssignArguments args{};
  args.anchors = effdet::read_only<effdet::Box>(anchors);
  args.boxes = effdet::read_only<effdet::Box>(boxes);
  args.labels = effdet::read_only<int64_t>(labels);
  args.matched = effdet::writable<int32_t>(matched);
  args.cls_targets = effdet::writable<int32_t>(cls_targets);
  args.num_foreground = effdet::writable<float>(num_foreground);
  args.num_images = static_cast<uint32_t>(num_images);
  args.num_anchors = static_cast<uint32_t>(num_anchors);
  args.num_boxes = static_cast<uint32_t>(num_boxes);
  args.foreground_iou = static_cast<float>(foreground_iou);
  args.crowd_overlap = static_cast<float>(crowd_overlap);
  effdet::launch_assignment(launch, args, effdet::writable<unsigned long long>(workspace));
  return {matched, cls_targets, num_foreground};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effdet, CUDA, library) {
  library.impl("assign_anchors", TORCH_BOX(&assign_anchors));
}
