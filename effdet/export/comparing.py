# SPDX-License-Identifier: Apache-2.0
"""How far are the detections of an exported file from those of PyTorch?

Two programs round differently in the last bits. Where two boxes have nearly the same score, or
overlap by nearly the threshold, that decides which of them stays; so a detection without a partner
is looked for among all that the network gave. One that is there is a *tie*; one that is not is
*missing*, and a fault.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.boxes import box_iou
from effdet.structures import Detections


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest differences over all images.

    Attributes:
        boxes: pixels, of the corners of detections that belong together.
        scores: 0-1, of the same.
        detections: of PyTorch, in all images.
        ties: detections of either that have no partner for a rounding of score or overlap.
        missing: detections of either that the other's network does not have at all.
    """

    boxes: float = 0.0
    scores: float = 0.0
    detections: int = 0
    ties: int = 0
    missing: int = 0

    def __add__(self, other: "Difference") -> "Difference":
        """Of two sets of images as one."""
        return Difference(
            boxes=max(self.boxes, other.boxes),
            scores=max(self.scores, other.scores),
            detections=self.detections + other.detections,
            ties=self.ties + other.ties,
            missing=self.missing + other.missing,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What a network gave for one image before suppression, in pixels of its detections.

    Attributes:
        scores: ``[A, K]`` in 0-1.
        boxes: ``[A, 4]`` xyxy.
    """

    scores: Tensor
    boxes: Tensor


def compare_detections(
    expected: Detections, found: Detections, rows: Rows, box_limit: float, score_limit: float
) -> Difference:
    """The difference of one image.

    Args:
        expected: of PyTorch.
        found: of the file.
        rows: of PyTorch's network: where a detection without a partner is looked for.
        box_limit: pixels by which such a one may be beside.
        score_limit: the same for its score.
    """
    left, right = _partners(expected, found)
    boxes = (expected.boxes[left] - found.boxes[right]).abs()
    scores = (expected.scores[left] - found.scores[right]).abs()
    ties = missing = 0
    for side, used in ((expected, left), (found, right)):
        alone = torch.ones(len(side), dtype=torch.bool)
        alone[used] = False
        known = _is_known(side[alone], rows, box_limit, score_limit)
        ties += int(known.sum())
        missing += int((~known).sum())
    return Difference(
        boxes=_largest(boxes),
        scores=_largest(scores),
        detections=len(expected),
        ties=ties,
        missing=missing,
    )


def _partners(expected: Detections, found: Detections) -> tuple[list[int], list[int]]:
    """Places of those that belong together: of one class, each other's nearest, IoU above 0.9."""
    iou = box_iou(expected.boxes.double(), found.boxes.double())
    iou[expected.labels[:, None] != found.labels[None]] = 0
    left, right = [], []
    for i in range(len(expected)):  # best first
        if not len(found):
            break
        overlap, j = iou[i].max(0)
        if overlap > 0.9:
            left.append(i)
            right.append(int(j))
            iou[:, j] = 0
    return left, right


def _is_known(found: Detections, rows: Rows, box_limit: float, score_limit: float) -> Tensor:
    """``[N]`` bool: whether the network gave such a box with such a score for the class."""
    known = torch.zeros(len(found), dtype=torch.bool)
    for i, (box, score, label) in enumerate(
        zip(found.boxes, found.scores, found.labels.tolist(), strict=True)
    ):
        near = ((rows.boxes - box).abs() <= box_limit).all(1)
        known[i] = ((rows.scores[near, label] - score).abs() <= score_limit).any()
    return known


def compare_rows(expected: Rows, found: Rows, count: int = 100) -> tuple[float, float]:
    """Largest difference of boxes (pixels) and scores of the raw outputs for one image.

    Of the boxes those on the ``count`` best anchors count: a box that nobody is shown may be of
    any size.
    """
    best = expected.scores.amax(1).topk(min(count, len(expected.scores))).indices
    boxes = _largest((expected.boxes[best] - found.boxes[best]).abs())
    return boxes, _largest((expected.scores - found.scores).abs())


def _largest(values: Tensor) -> float:
    """NaN, which is of a broken network, is larger than anything."""
    return float(values.nan_to_num(nan=torch.inf).max()) if values.numel() else 0.0
