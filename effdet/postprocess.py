# SPDX-License-Identifier: Apache-2.0
"""From network outputs to detections.

The best (anchor, class) pairs of an image become candidates, those that overlap a better one of
their class are suppressed, and what is left goes back to the pixels of the original image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from effdet.boxes import box_area, box_intersection, clip_boxes, decode_boxes
from effdet.config import NMS, PostprocessConfig
from effdet.levels import flatten_levels, values_per_anchor
from effdet.structures import ClassMap, Detections, Target

REMOVED = -1.0
"""Score of a candidate that is out of the running; below every score threshold."""


class Candidates(NamedTuple):
    """The best pairs of each image, best first: ``[B, C]`` logits, anchor and class indices."""

    logits: Tensor
    anchors: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Postprocess:
    """Turns the outputs of a batch into one :class:`Detections` an image.

    Attributes:
        anchors: ``[A, 4]`` xyxy in network pixels; best kept on the device of the outputs.
        config: thresholds, kind of suppression and limits.
        class_map: its unnamed slots are never predicted; None predicts every class.
    """

    anchors: Tensor
    config: PostprocessConfig
    class_map: ClassMap | None = None

    @torch.no_grad()
    def __call__(
        self,
        cls_levels: Sequence[Tensor],
        box_levels: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> list[Detections]:
        """Detections of each image, best first, on the device of the outputs.

        Args:
            cls_levels: ``[B, anchors * K, H, W]`` of any float type; NaN is never detected.
            box_levels: ``[B, anchors * 4, H, W]`` (tx, ty, tw, th).
            targets: one an image; only ``scale`` and ``size`` are read.

        Raises:
            ValueError: for shapes that do not belong together.
        """
        num_classes = values_per_anchor(cls_levels, len(self.anchors))
        cls_logits = flatten_levels(cls_levels, num_classes)
        box_deltas = flatten_levels(box_levels, 4)
        self._check_shapes(cls_logits, box_deltas, targets)
        config = self.config
        found = select_candidates(cls_logits, config.max_candidates, self._unnamed)
        boxes = self._decode(box_deltas, found.anchors)
        scores = found.logits.sigmoid()
        # A wild delta decodes to an infinite box, which is nobody's detection.
        scores = torch.where(boxes.isfinite().all(-1), scores, REMOVED)
        picks, scores = suppress(
            boxes,
            scores,
            found.labels,
            method=config.nms,
            max_detections=config.max_detections,
            iou_threshold=config.iou_threshold,
            sigma=config.sigma,
            score_threshold=config.score_threshold,
        )
        boxes = boxes.gather(1, picks[..., None].expand(-1, -1, 4))
        return self._finish(boxes, scores, found.labels.gather(1, picks), targets)

    @property
    def _unnamed(self) -> tuple[int, ...]:
        if self.class_map is None:
            return ()
        return tuple(i for i, name in enumerate(self.class_map.names) if name is None)

    def _decode(self, box_deltas: Tensor, anchor_index: Tensor) -> Tensor:
        anchors = self.anchors.to(box_deltas.device)[anchor_index]  # [B, C, 4]
        deltas = box_deltas.gather(1, anchor_index[..., None].expand(-1, -1, 4))
        return decode_boxes(deltas.float(), anchors)

    def _finish(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, targets: Sequence[Target]
    ) -> list[Detections]:
        """Cut the padding off each image's picks and return to original pixels."""
        counts = (scores > self.config.score_threshold).sum(1).tolist()
        return [
            self._to_original(boxes[i, :count], scores[i, :count], labels[i, :count], target)
            for i, (count, target) in enumerate(zip(counts, targets, strict=True))
        ]

    def _to_original(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, target: Target
    ) -> Detections:
        found = Detections(boxes=boxes / target.scale, scores=scores, labels=labels)
        if not self.config.clip_boxes:
            return found
        clipped = replace(found, boxes=clip_boxes(found.boxes, target.size))
        # A box that lay in the padding has nothing left.
        return clipped[(clipped.boxes[:, 2:] > clipped.boxes[:, :2]).all(1)]

    def _check_shapes(
        self, cls_logits: Tensor, box_deltas: Tensor, targets: Sequence[Target]
    ) -> None:
        expected = (len(targets), len(self.anchors))
        if cls_logits.ndim != 3 or cls_logits.shape[:2] != expected:
            raise ValueError(
                f"cls_logits must be [B, A, K] with B, A = {expected} (targets, anchors), "
                f"got {list(cls_logits.shape)}"
            )
        if box_deltas.shape != (*expected, 4):
            raise ValueError(f"box_deltas must be {[*expected, 4]}, got {list(box_deltas.shape)}")
        if self.class_map is not None and len(self.class_map) != cls_logits.shape[2]:
            raise ValueError(
                f"class map has {len(self.class_map)} classes but cls_logits {cls_logits.shape[2]}"
            )


def select_candidates(
    cls_logits: Tensor, max_candidates: int, exclude: Sequence[int] = ()
) -> Candidates:
    """The ``max_candidates`` highest logits of each image, equal ones by lowest flat index.

    Args:
        cls_logits: ``[B, A, K]``; NaN counts as the lowest value.
        max_candidates: pairs an image at most.
        exclude: classes that count as the lowest value.
    """
    num_images, num_anchors, num_classes = cls_logits.shape
    if num_anchors * num_classes == 0:
        empty = torch.zeros(num_images, 0, dtype=torch.int64, device=cls_logits.device)
        return Candidates(empty.float(), empty, empty)
    logits = cls_logits.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if exclude:
        logits[..., list(exclude)] = -torch.inf
    # The best C pairs lie on the C anchors with the best maxima, so classes need to be ranked only
    # there: measured ten times faster than ranking A * K pairs (D0, 90 classes, one CPU core).
    anchors = _top(logits.amax(-1), max_candidates).sort(1).values  # [B, C]
    rows = logits.gather(1, anchors[..., None].expand(-1, -1, num_classes)).flatten(1)
    pairs = _top(rows, max_candidates)
    return Candidates(
        rows.gather(1, pairs).float(),
        anchors.gather(1, pairs // num_classes),
        pairs % num_classes,
    )


def _top(values: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest of ``[B, N]`` values, equal ones by lowest index.

    ``topk`` alone leaves open which of several equal values it takes, and in half precision many
    are equal; so value and index are ranked together, as the two halves of an integer.
    """
    # Adding 0 makes -0.0 equal to 0.0. Below zero, larger bit patterns are smaller numbers.
    bits = (values.float() + 0.0).view(torch.int32)
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    index = torch.arange(values.shape[1], device=values.device)
    keys = (order << 32) - index
    return keys.topk(min(count, values.shape[1])).indices


def suppress(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    method: NMS,
    max_detections: int,
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    score_threshold: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression within each class, all images at once.

    Time and again each image's best remaining candidate is picked, and those of its class lose
    score by their overlap with it: all of it (``hard``, above ``iou_threshold``), ``1 - IoU`` of it
    (``linear``, above ``iou_threshold``) or ``exp(-IoU^2 / sigma)`` of it (``gaussian``, Soft-NMS,
    arXiv:1704.04503). Since picks come in falling score, this is what separate suppression of each
    class and a merge of the results would give.

    Args:
        boxes: ``[B, C, 4]`` xyxy.
        scores: ``[B, C]``; best first is fastest, since the tail below the threshold is left out.
        labels: ``[B, C]`` class indices.
        method: what an overlap costs.
        max_detections: picks an image at most, D.
        iou_threshold: overlap above which ``hard`` and ``linear`` act; no effect on ``gaussian``.
        sigma: width of ``gaussian``.
        score_threshold: candidates at or below it, before or after decay, are never picked.

    Returns:
        ``[B, D]`` indices into C and their ``[B, D]`` final scores, falling; places that nothing
        was left for have a score at or below the threshold.
    """
    boxes, scores, labels = _drop_tail(boxes, scores, labels, score_threshold)
    num_images, num_candidates = scores.shape
    num_picks = min(max_detections, num_candidates)
    picks = labels.new_zeros(num_images, num_picks)
    kept = scores.new_zeros(num_images, num_picks)
    remaining, areas = torch.where(scores > score_threshold, scores, REMOVED), box_area(boxes)
    for i in range(num_picks):
        best, pick = remaining.max(1, keepdim=True)  # [B, 1]; the first of equal ones
        picks[:, i], kept[:, i] = pick[:, 0], best[:, 0]
        iou = _iou_with_pick(boxes, areas, pick)
        factor = _decay(iou, method, iou_threshold, sigma)
        remaining = torch.where(labels == labels.gather(1, pick), remaining * factor, remaining)
        remaining.scatter_(1, pick, REMOVED)
    return picks, kept


def _drop_tail(
    boxes: Tensor, scores: Tensor, labels: Tensor, score_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out the places behind each image's last score above the threshold (one sync)."""
    alive = scores > score_threshold
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    last = (alive * places).flatten()
    length = int(last.max()) if last.numel() else 0
    return boxes[:, :length], scores[:, :length], labels[:, :length]


def _iou_with_pick(boxes: Tensor, areas: Tensor, pick: Tensor) -> Tensor:
    """IoU ``[B, C]`` of each candidate with its image's pick ``[B, 1]``; 0 without any area."""
    picked = boxes.gather(1, pick[..., None].expand(-1, -1, 4))
    intersection = box_intersection(boxes, picked)
    union = areas + areas.gather(1, pick) - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def _decay(iou: Tensor, method: NMS, iou_threshold: float, sigma: float) -> Tensor:
    """What is left, 0-1, of the score of a box that overlaps a better one by ``iou``."""
    if method == "gaussian":
        return torch.exp(iou.square() / -sigma)
    if method == "linear":
        return torch.where(iou > iou_threshold, 1 - iou, 1.0)
    if method == "hard":
        return (iou <= iou_threshold).to(iou.dtype)
    raise ValueError(f"method must be gaussian, linear or hard, got {method!r}")
