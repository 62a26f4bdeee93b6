# SPDX-License-Identifier: Apache-2.0
"""The best (anchor, class) pairs of an image, with their boxes: what enters the suppression.

The class logits are read where the heads left them, level by level, in either memory layout, and
only the few pairs that are taken are looked up, decoded and copied.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from effdet.boxes import decode_boxes
from effdet.levels import check_levels, flatten_levels, readable

MAX_LOG_RATIO = 30.0
"""tw and th are cut here, so that neither the sides (1e13 anchors) nor the areas overflow."""

REMOVED = -1.0
"""Score of a place that holds no candidate; below every threshold."""

MAX_PAIRS = 2**32 - 1
"""(anchor, class) pairs an image at most."""


class Candidates(NamedTuple):
    """The best pairs of each image, best first, C an image.

    Attributes:
        boxes: ``[B, C, 4]`` float32 xyxy, 0 in unused places.
        scores: ``[B, C]`` float32 in [0, 1], -1 in unused places.
        labels: ``[B, C]`` int64 class indices, 0 in unused places.
        anchors: ``[B, C]`` int64 anchor indices, 0 in unused places.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    anchors: Tensor


def select_candidates(
    cls_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    anchors: Tensor,
    *,
    num_classes: int,
    max_candidates: int,
    score_threshold: float = 0.0,
    exclude: Sequence[int] = (),
) -> Candidates:
    """The C = min(max_candidates, A * K) highest logits of each image, decoded.

    Equal logits (compared as float32; -0 and 0 are equal) are taken by lowest flat index
    ``anchor * K + class``, so the choice is the same on every device and in every layout. NaN is
    never taken. A taken pair whose box is not finite leaves its place unused: it is not closed up.

    Args:
        cls_logits: a level each, ``[B, anchors * K, H, W]`` with channel = anchor * K + class; any
            float type; contiguous and channels_last are read in place. On CUDA at most 8 levels,
            each of fewer than 2**31 values an image.
        box_deltas: a level each, ``[B, anchors * 4, H, W]`` (tx, ty, tw, th) an anchor; tw and th
            are cut at ``MAX_LOG_RATIO``.
        anchors: ``[A, 4]`` float32 xyxy in the order level, row, column, anchor.
        num_classes: K.
        max_candidates: pairs an image at most, at least 1.
        score_threshold: pairs whose sigmoid is at or below it are left out; in [0, 1].
        exclude: classes that are never taken.

    Raises:
        ValueError: for shapes, types and devices that do not belong together and bad settings.
    """
    _check_settings(num_classes, max_candidates, score_threshold, exclude)
    _check_tensors(cls_logits, box_deltas, anchors, num_classes)
    return Candidates(
        *_op(
            [readable(x.detach()) for x in cls_logits],
            [readable(x.detach()) for x in box_deltas],
            anchors,
            num_classes,
            max_candidates,
            float(score_threshold),
            list(exclude),
        )
    )


def _check_settings(
    num_classes: int, max_candidates: int, score_threshold: float, exclude: Sequence[int]
) -> None:
    for name, value in (("num_classes", num_classes), ("max_candidates", max_candidates)):
        if isinstance(value, float):
            raise ValueError(f"{name} must be an integer, got {value}")
        if not 1 <= value < 2**63:
            raise ValueError(f"{name} must be at least 1 and below 2**63, got {value}")
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must be in [0, 1], got {score_threshold}")
    for label in exclude:
        if not 0 <= label < num_classes:
            raise ValueError(f"exclude must hold classes in [0, {num_classes}), got {label}")


def _check_tensors(
    cls_logits: Sequence[Tensor], box_deltas: Sequence[Tensor], anchors: Tensor, num_classes: int
) -> None:
    if anchors.dim() != 2 or anchors.shape[1] != 4 or anchors.dtype != torch.float32:
        raise ValueError(
            f"anchors must be [A, 4] float32, got {list(anchors.shape)} {anchors.dtype}"
        )
    check_levels("cls_logits", cls_logits, num_classes)
    check_levels("box_deltas", box_deltas, 4)
    if len(cls_logits) != len(box_deltas) or cls_logits[0].shape[0] != box_deltas[0].shape[0]:
        raise ValueError(
            "cls_logits and box_deltas must have the same levels and images, got "
            f"{len(cls_logits)} levels of {cls_logits[0].shape[0]} images and "
            f"{len(box_deltas)} of {box_deltas[0].shape[0]}"
        )
    for name, levels in (("cls_logits", cls_logits), ("box_deltas", box_deltas)):
        if levels[0].device != anchors.device:
            raise ValueError(
                f"{name} must be on the anchors' device {anchors.device}, got {levels[0].device}"
            )
    num_anchors = 0
    for level, (logits, deltas) in enumerate(zip(cls_logits, box_deltas, strict=True)):
        boxes = (deltas.shape[1] // 4, *deltas.shape[2:])
        pairs = (logits.shape[1] // num_classes, *logits.shape[2:])
        if boxes != pairs:
            raise ValueError(
                f"box_deltas[{level}] must have the anchors, height and width of cls_logits, "
                f"{list(pairs)}, got {list(boxes)}"
            )
        num_anchors += boxes[0] * boxes[1] * boxes[2]
    if num_anchors != anchors.shape[0]:
        raise ValueError(
            f"anchors must be as many as cls_logits' levels hold, {num_anchors}, "
            f"got {anchors.shape[0]}"
        )
    if num_anchors * num_classes > MAX_PAIRS:
        raise ValueError(
            f"cls_logits must hold at most {MAX_PAIRS} values an image, "
            f"got {num_anchors * num_classes}"
        )


def reference(
    cls_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    anchors: Tensor,
    num_classes: int,
    max_candidates: int,
    score_threshold: float,
    exclude: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition of the operator, for the arguments of the public function.

    Returns:
        The fields of :class:`Candidates`.
    """
    logits = flatten_levels(cls_logits, num_classes).float()  # [B, A, K]
    # Minus infinity has score 0, which is above no threshold.
    logits = logits.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    logits[..., list(exclude)] = -torch.inf
    # The best C pairs lie on the C anchors with the best maxima, so classes need to be ranked only
    # there: measured ten times faster than ranking A * K pairs (D0, 90 classes, one CPU core).
    best = _top(logits.amax(-1), max_candidates).sort(1).values  # [B, C]
    rows = logits.gather(1, best[..., None].expand(-1, -1, num_classes)).flatten(1)
    pairs = _top(rows, max_candidates)
    scores = rows.gather(1, pairs).sigmoid()
    labels, index = pairs % num_classes, best.gather(1, pairs // num_classes)

    deltas = flatten_levels(box_deltas, 4).gather(1, index[..., None].expand(-1, -1, 4)).float()
    deltas = torch.cat([deltas[..., :2], deltas[..., 2:].clamp(max=MAX_LOG_RATIO)], -1)
    boxes = decode_boxes(deltas, anchors[index])
    used = (scores > score_threshold) & boxes.isfinite().all(-1)
    return (
        torch.where(used[..., None], boxes, 0.0),
        torch.where(used, scores, REMOVED),
        torch.where(used, labels, 0),
        torch.where(used, index, 0),
    )


def _top(values: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest of ``[B, N]`` values, equal ones by lowest index.

    ``topk`` alone leaves open which of several equal values it takes, and in half precision many
    are equal; so value and index are ranked together, as the two halves of an integer.
    """
    # Adding 0 makes -0.0 equal to 0.0. Below zero, larger bit patterns are smaller numbers.
    bits = (values + 0.0).view(torch.int32)
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    index = torch.arange(values.shape[1], device=values.device)
    keys = (order << 32) - index
    return keys.topk(min(count, values.shape[1])).indices


_op = torch.library.custom_op("effdet::select_candidates", reference, mutates_args=())


@_op.register_fake
def _(
    cls_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    anchors: Tensor,
    num_classes: int,
    max_candidates: int,
    score_threshold: float,
    exclude: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = torch.sym_min(max_candidates, anchors.shape[0] * num_classes)
    places = (cls_logits[0].shape[0], count)
    index = anchors.new_empty(places, dtype=torch.int64)
    return anchors.new_empty((*places, 4)), anchors.new_empty(places), index, index.clone()
