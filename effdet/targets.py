# SPDX-License-Identifier: Apache-2.0
"""What every anchor should predict: from the ground truth of a batch to the losses' targets."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from effdet.ops import assign_anchors
from effdet.structures import BACKGROUND, IGNORE, Target

FOREGROUND_IOU = 0.5
"""IoU from which an anchor belongs to its best box; there is no band of undecided anchors."""
CROWD_OVERLAP = 0.5
"""Share of a background anchor's area on a crowd region from which it is ignored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignment:
    """What every anchor should predict.

    Attributes:
        anchors: ``[A, 4]`` float32 xyxy that were matched.
        cls_targets: ``[B, A]`` int32 class index, ``BACKGROUND`` or ``IGNORE``.
        matched: ``[B, A]`` int32 index of the anchor's box, or the same two.
        boxes: ``[B, M, 4]`` float32 xyxy that ``matched`` points into.
        num_foreground: ``[]`` float32, anchors with an object in the whole batch.
    """

    anchors: Tensor
    cls_targets: Tensor
    matched: Tensor
    boxes: Tensor
    num_foreground: Tensor


def assign_targets(anchors: Tensor, targets: list[Target]) -> Assignment:
    """Match the anchors against every image's boxes; nothing leaves the device.

    See :func:`effdet.ops.assign_anchors`. An image without boxes is all background.

    Args:
        anchors: ``[A, 4]`` float32 xyxy in network pixels.
        targets: ground truth of each image, in network pixels and on the anchors' device; at least
            one.
    """
    boxes, labels = pad_targets(targets)
    assignment = assign_anchors(
        anchors, boxes, labels, foreground_iou=FOREGROUND_IOU, crowd_overlap=CROWD_OVERLAP
    )
    return Assignment(
        anchors=anchors,
        cls_targets=assignment.cls_targets,
        matched=assignment.matched,
        boxes=boxes,
        num_foreground=assignment.num_foreground,
    )


def pad_targets(targets: list[Target]) -> tuple[Tensor, Tensor]:
    """The ground truth of a batch in two tensors.

    Returns:
        boxes: ``[B, M, 4]`` float32 xyxy, M being the most boxes of one image; 0 in rows left over.
        labels: ``[B, M]`` int64 class indices, ``IGNORE`` for crowds, ``BACKGROUND`` in rows left
            over.

    Raises:
        ValueError: for no targets, and where boxes, labels and crowd flags differ in number.
    """
    if not targets:
        raise ValueError("targets must hold at least one image, got []")
    for image, target in enumerate(targets):
        counts = len(target.boxes), len(target.labels), len(target.crowd)
        if len(set(counts)) != 1:
            raise ValueError(
                f"targets[{image}] must have as many boxes, labels and crowd flags, "
                f"got {counts[0]}, {counts[1]} and {counts[2]}"
            )
    labels = [torch.where(target.crowd, IGNORE, target.labels) for target in targets]
    return (
        pad_sequence([target.boxes for target in targets], batch_first=True),
        pad_sequence(labels, batch_first=True, padding_value=BACKGROUND),
    )
