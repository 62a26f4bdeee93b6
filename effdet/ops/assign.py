# SPDX-License-Identifier: Apache-2.0
"""Which anchor stands for which object: matching by overlap, as in EfficientDet's reference code.

An anchor takes the box it overlaps most if their IoU reaches a threshold. In addition every box
takes the anchor that overlaps it most, however little: the forced match of SSD
(https://arxiv.org/abs/1512.02325, 2.2). Background anchors on a crowd region are ignored.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from effdet.boxes import box_ioa, box_iou
from effdet.structures import BACKGROUND, IGNORE


class AnchorAssignment(NamedTuple):
    """What :func:`assign_anchors` returns.

    Attributes:
        matched: ``[B, A]`` int32 index of each anchor's box in [0, M), ``BACKGROUND`` (-1) where
            there is none, ``IGNORE`` (-2) where a background anchor lies on a crowd region.
        cls_targets: ``[B, A]`` int32 label of that box, or the same -1 and -2.
        num_foreground: ``[]`` float32, matched anchors in the whole batch.
    """

    matched: Tensor
    cls_targets: Tensor
    num_foreground: Tensor


def assign_anchors(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    foreground_iou: float = 0.5,
    crowd_overlap: float = 0.5,
) -> AnchorAssignment:
    """Match the anchors against every image's boxes; nothing leaves the device.

    Ties: an anchor takes the first of equally good boxes, a box the first of equally good anchors
    (anchor 0 if it overlaps none). Of boxes that force one anchor the lowest index wins. A box
    with NaN coordinates overlaps nothing. There is no gradient.

    Args:
        anchors: ``[A, 4]`` float32 xyxy in pixels.
        boxes: ``[B, M, 4]`` float32 xyxy in the same pixels.
        labels: ``[B, M]`` int64. A class index, which is copied (at most 2**31 - 1), not looked at;
            ``IGNORE`` (-2) for a crowd region, which is matched with nothing; ``BACKGROUND`` (-1)
            for a row that only fills up the batch, whatever its coordinates.
        foreground_iou: IoU from which an anchor belongs to its best box, in [0, 1]; an anchor
            that does not overlap the box at all never does.
        crowd_overlap: share of a background anchor's area on one crowd region from which it is
            ignored, in [0, 1]; likewise.

    Raises:
        ValueError: for a wrong shape, dtype, device or setting, and for labels below -2 if they
            are on the CPU (elsewhere looking at them would stall).
    """
    _check_share("foreground_iou", foreground_iou)
    _check_share("crowd_overlap", crowd_overlap)
    _check_tensors(anchors, boxes, labels)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_labels(labels)
    # Larger labels would wrap around to other classes; so they stay out of every range.
    labels = labels.clamp(torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max)
    values = (anchors.detach(), boxes.detach(), labels)
    return AnchorAssignment(*_op(*values, foreground_iou, crowd_overlap))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def _check_tensors(anchors: Tensor, boxes: Tensor, labels: Tensor) -> None:
    if anchors.dim() != 2 or anchors.shape[1] != 4:
        raise ValueError(f"anchors must be [A, 4], got {list(anchors.shape)}")
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be [B, M, 4], got {list(boxes.shape)}")
    if labels.shape != boxes.shape[:2]:
        raise ValueError(
            f"labels must be [B, M] = {list(boxes.shape[:2])}, got {list(labels.shape)}"
        )
    for name, tensor in (("anchors", anchors), ("boxes", boxes)):
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} must be float32, got {tensor.dtype}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, got {labels.dtype}")
    for name, tensor in (("boxes", boxes), ("labels", labels)):
        if tensor.device != anchors.device:
            raise ValueError(
                f"{name} must be on the anchors' device {anchors.device}, got {tensor.device}"
            )


def _check_labels(labels: Tensor) -> None:
    if labels.numel() and int(labels.min()) < IGNORE:
        raise ValueError(
            f"labels must be at least 0, {BACKGROUND} (no box) or {IGNORE} (crowd), "
            f"got {int(labels.min())}"
        )


def reference(
    anchors: Tensor, boxes: Tensor, labels: Tensor, foreground_iou: float, crowd_overlap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of the operator, for the arguments of the public function."""
    shape = (boxes.shape[0], anchors.shape[0])
    matched = labels.new_full(shape, BACKGROUND, dtype=torch.int32)
    cls_targets = labels.new_full(shape, BACKGROUND, dtype=torch.int32)
    if anchors.shape[0] > 0 and boxes.shape[1] > 0:
        for image in range(boxes.shape[0]):  # one by one: all IoUs of a batch are gigabytes
            found = _match(anchors, boxes[image], labels[image], foreground_iou, crowd_overlap)
            matched[image] = found
            cls_targets[image] = torch.where(found >= 0, labels[image][found.clamp(min=0)], found)
    return matched, cls_targets, (matched >= 0).sum().to(torch.float32)


def _match(
    anchors: Tensor, boxes: Tensor, labels: Tensor, foreground_iou: float, crowd_overlap: float
) -> Tensor:
    """``[A]`` int64: the ``matched`` of one image with at least one anchor and one row of boxes."""
    num_boxes = labels.shape[0]
    is_crowd = labels == IGNORE
    is_object = ~is_crowd & (labels != BACKGROUND)
    iou = torch.where(is_object[:, None], box_iou(boxes, anchors), -1.0)  # [M, A]
    best_iou, best_box = iou.max(0)
    ioa = box_ioa(anchors, boxes)  # [A, M]
    on_crowd = ((ioa >= crowd_overlap) & (ioa > 0) & is_crowd).any(1)
    background = torch.where(on_crowd, IGNORE, BACKGROUND)
    matched = torch.where((best_iou >= foreground_iou) & (best_iou > 0), best_box, background)

    numbers = torch.arange(num_boxes, device=boxes.device).masked_fill(~is_object, num_boxes)
    forced = torch.full_like(matched, num_boxes)
    forced.scatter_reduce_(0, iou.argmax(1), numbers, "amin")
    return torch.where(forced < num_boxes, forced, matched)


_op = torch.library.custom_op("effdet::assign_anchors", reference, mutates_args=())


@_op.register_fake
def _(
    anchors: Tensor, boxes: Tensor, labels: Tensor, foreground_iou: float, crowd_overlap: float
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (boxes.shape[0], anchors.shape[0])
    matched = labels.new_empty(shape, dtype=torch.int32)
    return matched, torch.empty_like(matched), boxes.new_empty(())
