# SPDX-License-Identifier: Apache-2.0
"""One set of detections out of several of the same image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from effdet.boxes import box_iou
from effdet.ops import nms
from effdet.settings import PostprocessConfig
from effdet.structures import Detections


def join(parts: Sequence[Detections]) -> Detections:
    """All detections of ``parts``, best first; equal scores in the order of the parts."""
    scores = torch.cat([part.scores for part in parts])
    order = scores.argsort(descending=True, stable=True)
    return Detections(
        boxes=torch.cat([part.boxes for part in parts])[order],
        scores=scores[order],
        labels=torch.cat([part.labels for part in parts])[order],
    )


def weighted_box_fusion(parts: Sequence[Detections], iou_threshold: float = 0.55) -> Detections:
    """Weighted Box Fusion of several looks at one image (Solovyev et al., arXiv:1910.13302).

    Boxes are taken best first. Each joins the fused box of its class that it overlaps most, at an
    IoU above ``iou_threshold``, or begins one. A fused box is the mean of its members weighted by
    their scores; its score is the sum of theirs divided by the number of looks, so that what only
    one of four has seen counts a quarter. Unlike in the paper a look gives a fused box at most one
    member: its own boxes have been through suppression and mean different objects.

    Args:
        parts: detections of each look, in pixels of the same image.
        iou_threshold: overlap above which boxes mean the same object, 0-1; the paper's is 0.55.

    Returns:
        Fused detections, best first, at most as many as all parts have together.
    """
    found = join(parts)
    looks = _look_of_each(parts)
    fused = _Fused(len(parts), len(found), found.boxes)
    for box, score, label, look in zip(found.boxes, found.scores, found.labels, looks):
        fused.add(box, score, label, int(look), iou_threshold)
    return join([fused.detections(found.labels)])


def _look_of_each(parts: Sequence[Detections]) -> Tensor:
    """``[N]`` index of the part that each detection of ``join(parts)`` is from."""
    scores = torch.cat([part.scores for part in parts])
    looks = torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)])
    return looks[scores.argsort(descending=True, stable=True)]


class _Fused:
    """Fused boxes as they grow: score-weighted sums, and who has given what."""

    def __init__(self, num_looks: int, most: int, like: Tensor) -> None:
        self.num_looks, self.count = num_looks, 0
        self.boxes = like.new_zeros(most, 4)
        self.sums = like.new_zeros(most, 4)
        self.scores = like.new_zeros(most)
        self.labels = torch.full((most,), -1)
        self.has = torch.zeros(most, num_looks, dtype=torch.bool)

    def add(self, box: Tensor, score: Tensor, label: Tensor, look: int, threshold: float) -> None:
        n = self.count
        iou = box_iou(box[None], self.boxes[:n])[0]
        iou[(self.labels[:n] != label) | self.has[:n, look]] = -1.0
        index = int(iou.argmax()) if n else 0
        if n == 0 or iou[index] <= threshold:
            index, self.count = n, n + 1
        self.labels[index] = label
        self.has[index, look] = True
        self.scores[index] += score
        self.sums[index] += score * box
        self.boxes[index] = self.sums[index] / self.scores[index]

    def detections(self, like: Tensor) -> Detections:
        n = self.count
        return Detections(
            boxes=self.boxes[:n],
            scores=self.scores[:n] / self.num_looks,
            labels=self.labels[:n].to(like.dtype),
        )


def limit(found: Detections, config: PostprocessConfig) -> Detections:
    """What is above the score threshold, and of that no more than the settings allow.

    Args:
        found: detections, best first.
        config: ``score_threshold``, ``max_detections`` and ``max_per_class`` are read.
    """
    found = found[found.scores > config.score_threshold]
    if config.max_per_class:
        same = found.labels[:, None] == found.labels[None]  # [N, N]
        rank = same.tril(-1).sum(1)  # better ones of the same class
        found = found[rank < config.max_per_class]
    return found[: config.max_detections]


def suppress(found: Detections, config: PostprocessConfig) -> Detections:
    """Hard suppression of what stands twice, within each class, with the settings' limits."""
    if not len(found):
        return found
    kept = nms(
        found.boxes[None],
        found.scores[None],
        found.labels[None],
        method="hard",
        iou_threshold=config.iou_threshold,
        score_threshold=config.score_threshold,
        max_detections=config.max_detections,
        max_per_class=config.max_per_class,
        class_agnostic=config.class_agnostic,
    )
    return found[kept.picks[0, : int(kept.counts[0])]]
