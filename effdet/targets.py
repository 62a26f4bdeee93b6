# SPDX-License-Identifier: Apache-2.0
"""Which anchor stands for which object: the reference's matching, on the training device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.boxes import box_ioa, box_iou, encode_boxes
from effdet.structures import BACKGROUND, IGNORE, Target

FOREGROUND_IOU = 0.5
"""IoU from which an anchor belongs to its best box; there is no band of undecided anchors."""
CROWD_OVERLAP = 0.5
"""Share of a background anchor's area on a crowd region from which it is ignored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignment:
    """What every anchor should predict.

    Attributes:
        cls_targets: ``[B, A]`` int64 class index, ``BACKGROUND`` or ``IGNORE``.
        box_targets: ``[B, A, 4]`` float32 (tx, ty, tw, th), zero where there is no object.
        num_foreground: ``[]`` float32, anchors with an object in the whole batch.
    """

    cls_targets: Tensor
    box_targets: Tensor
    num_foreground: Tensor


def match_anchors(anchors: Tensor, boxes: Tensor, crowd: Tensor) -> Tensor:
    """The box each anchor belongs to, ``BACKGROUND`` where there is none.

    An anchor takes the box it overlaps most if their IoU reaches 0.5. In addition every box takes
    the anchor that overlaps it most, whatever the IoU. Ties: the first anchor, the first box.

    Args:
        anchors: ``[A, 4]`` xyxy.
        boxes: ``[N, 4]`` xyxy, N at least 1.
        crowd: ``[N]`` bool, True for boxes that match nothing.

    Returns:
        ``[A]`` int64 index into ``boxes``.
    """
    num_boxes = boxes.shape[0]
    iou = torch.where(crowd[:, None], -1.0, box_iou(boxes, anchors))  # [N, A]
    best_iou, best_box = iou.max(0)
    matched = torch.where(best_iou >= FOREGROUND_IOU, best_box, BACKGROUND)
    numbers = torch.arange(num_boxes, device=boxes.device).masked_fill(crowd, num_boxes)
    forced = torch.full_like(matched, num_boxes)
    forced.scatter_reduce_(0, iou.argmax(1), numbers, "amin")
    return torch.where(forced < num_boxes, forced, matched)


def assign_targets(anchors: Tensor, targets: list[Target]) -> Assignment:
    """Match the anchors against every image's boxes; nothing leaves the device.

    Background anchors that lie mostly on a crowd region are ignored. An image without boxes is all
    background.

    Args:
        anchors: ``[A, 4]`` xyxy in network pixels.
        targets: ground truth of each image, in network pixels and on the anchors' device.
    """
    classes, deltas = zip(*[_assign_one(anchors, target) for target in targets], strict=True)
    cls_targets = torch.stack(classes)
    return Assignment(
        cls_targets=cls_targets,
        box_targets=torch.stack(deltas),
        num_foreground=(cls_targets >= 0).sum(dtype=torch.float32),
    )


def _assign_one(anchors: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """``[A]`` class targets and ``[A, 4]`` box targets of one image."""
    if target.boxes.shape[0] == 0:
        return (
            torch.full((anchors.shape[0],), BACKGROUND, device=anchors.device),
            torch.zeros_like(anchors),
        )
    matched = match_anchors(anchors, target.boxes, target.crowd)
    foreground = matched >= 0
    on_crowd = (box_ioa(anchors, target.boxes) >= CROWD_OVERLAP) & target.crowd
    background = torch.where(on_crowd.any(1), IGNORE, BACKGROUND)
    index = matched.clamp(min=0)
    deltas = encode_boxes(target.boxes[index], anchors)
    return (
        torch.where(foreground, target.labels[index], background),
        torch.where(foreground[:, None], deltas, 0.0),
    )
