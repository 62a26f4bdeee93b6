# SPDX-License-Identifier: Apache-2.0
"""From network outputs to detections.

The best (anchor, class) pairs of an image become candidates, those that overlap a better one of
their class are suppressed, and what is left goes back to the pixels of the original image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from effdet.ops import nms, select_candidates
from effdet.ops.select_candidates import REMOVED
from effdet.settings import PostprocessConfig
from effdet.structures import ClassMap, Detections, Target


class BatchDetections(NamedTuple):
    """What was found in each image of a batch, best first, in D places an image.

    Attributes:
        boxes: ``[B, D, 4]`` float32 xyxy in pixels of the original images, 0 in unused places.
        scores: ``[B, D]`` float32 in [0, 1], falling, -1 in unused places.
        labels: ``[B, D]`` int64 class indices, 0 in unused places.
        counts: ``[B]`` int64, how many places are used.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor


class Postprocessing(Protocol):
    """Turns what a network gives into one :class:`Detections` an image.

    :class:`Postprocess` does that, or what an exported file with its own suppression needs.
    """

    @property
    def config(self) -> PostprocessConfig:
        """Thresholds, kind of suppression and limits."""

    @property
    def class_map(self) -> ClassMap | None:
        """The classes that may be detected."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[Detections]:
        """The network's outputs in their order, then the targets, to detections."""


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

    def __call__(
        self,
        cls_logits: Sequence[Tensor],
        box_deltas: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> list[Detections]:
        """Detections of each image, best first, on the device of the outputs.

        Args:
            cls_logits: a level each, ``[B, anchors * K, H, W]`` of any float type; NaN is never
                detected.
            box_deltas: a level each, ``[B, anchors * 4, H, W]`` (tx, ty, tw, th) an anchor.
            targets: one an image; only ``scale`` and ``size`` are read.

        Raises:
            ValueError: for shapes that do not belong together.
        """
        device = self.anchors.device if len(cls_logits) == 0 else cls_logits[0].device
        scales = torch.tensor([t.scale for t in targets], dtype=torch.float32, device=device)
        sizes = torch.tensor([t.size for t in targets], dtype=torch.float32, device=device)
        found = self.detect(cls_logits, box_deltas, scales, sizes.reshape(-1, 2))
        return [
            Detections(boxes=boxes[:count], scores=scores[:count], labels=labels[:count])
            for boxes, scores, labels, count in zip(*found[:3], found.counts.tolist(), strict=True)
        ]

    def detect(
        self,
        cls_logits: Sequence[Tensor],
        box_deltas: Sequence[Tensor],
        scales: Tensor,
        sizes: Tensor,
    ) -> BatchDetections:
        """The same for a batch at once: fixed shapes, and no wait for the device.

        Args:
            cls_logits: a level each, ``[B, anchors * K, H, W]`` of any float type.
            box_deltas: a level each, ``[B, anchors * 4, H, W]`` (tx, ty, tw, th) an anchor.
            scales: ``[B]`` float32, network pixels per pixel of the original image.
            sizes: ``[B, 2]`` (height, width) of the original images; read by ``clip_boxes`` only.

        Raises:
            ValueError: for shapes that do not belong together.
        """
        num_classes = self._check_shapes(cls_logits, box_deltas, scales, sizes)
        with torch.no_grad():
            found = self._detect_in_network_pixels(cls_logits, box_deltas, num_classes)
            scales = scales.to(found.boxes.dtype)[:, None, None]
            found = found._replace(boxes=found.boxes / scales)
            return _clear_unused(_clip(found, sizes) if self.config.clip_boxes else found)

    def _detect_in_network_pixels(
        self, cls_logits: Sequence[Tensor], box_deltas: Sequence[Tensor], num_classes: int
    ) -> BatchDetections:
        config = self.config
        candidates = select_candidates(
            cls_logits,
            box_deltas,
            self.anchors.to(cls_logits[0].device),
            num_classes=num_classes,
            max_candidates=config.max_candidates,
            score_threshold=config.score_threshold,
            exclude=self._unnamed,
        )
        kept = nms(
            candidates.boxes,
            candidates.scores,
            candidates.labels,
            method=config.nms,
            iou_threshold=config.iou_threshold,
            sigma=config.sigma,
            score_threshold=config.score_threshold,
            max_detections=config.max_detections,
            max_per_class=config.max_per_class,
            class_agnostic=config.class_agnostic,
        )
        return BatchDetections(
            boxes=candidates.boxes.gather(1, kept.picks[..., None].expand(-1, -1, 4)),
            scores=kept.scores,
            labels=candidates.labels.gather(1, kept.picks),
            counts=kept.counts,
        )

    @property
    def _unnamed(self) -> tuple[int, ...]:
        if self.class_map is None:
            return ()
        return tuple(i for i, name in enumerate(self.class_map.names) if name is None)

    def _check_shapes(
        self,
        cls_logits: Sequence[Tensor],
        box_deltas: Sequence[Tensor],
        scales: Tensor,
        sizes: Tensor,
    ) -> int:
        """The number of classes; what else the operators need, they check themselves."""
        if not cls_logits or not box_deltas:
            raise ValueError("cls_logits and box_deltas must hold at least one level")
        logits, deltas = cls_logits[0], box_deltas[0]
        num_anchors = deltas.shape[1] // 4 if deltas.dim() == 4 else 0
        if num_anchors == 0 or deltas.shape[1] % 4:
            raise ValueError(
                f"box_deltas[0] must be [B, anchors * 4, H, W], got {list(deltas.shape)}"
            )
        if logits.dim() != 4 or logits.shape[1] == 0 or logits.shape[1] % num_anchors:
            raise ValueError(
                f"cls_logits[0] must be [B, {num_anchors} * classes, H, W] to belong to "
                f"box_deltas[0], got {list(logits.shape)}"
            )
        num_images, num_classes = logits.shape[0], logits.shape[1] // num_anchors
        if scales.shape != (num_images,) or sizes.shape != (num_images, 2):
            raise ValueError(
                f"cls_logits hold {num_images} images, but there are scales (or targets) "
                f"{list(scales.shape)} and sizes {list(sizes.shape)}"
            )
        if self.class_map is not None and len(self.class_map) != num_classes:
            raise ValueError(
                f"class map has {len(self.class_map)} classes but cls_logits {num_classes}"
            )
        return num_classes


def _clip(found: BatchDetections, sizes: Tensor) -> BatchDetections:
    """Boxes cut to their images; those that lay in the padding have nothing left and are dropped.

    ``sizes``: ``[B, 2]`` (height, width).
    """
    limits = sizes.to(found.boxes.dtype).flip(1).repeat(1, 2)[:, None]  # [B, 1, 4]
    boxes = found.boxes.clamp(min=0).minimum(limits)
    keep = _is_used(found) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    order = keep.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    return BatchDetections(
        boxes=boxes.gather(1, order[..., None].expand(-1, -1, 4)),
        scores=found.scores.gather(1, order),
        labels=found.labels.gather(1, order),
        counts=keep.sum(1),
    )


def _clear_unused(found: BatchDetections) -> BatchDetections:
    used = _is_used(found)
    return BatchDetections(
        boxes=torch.where(used[..., None], found.boxes, 0.0),
        scores=torch.where(used, found.scores, REMOVED),
        labels=torch.where(used, found.labels, 0),
        counts=found.counts,
    )


def _is_used(found: BatchDetections) -> Tensor:
    """``[B, D]`` bool: the places that hold a detection."""
    places = torch.arange(found.scores.shape[1], device=found.scores.device)
    return places < found.counts[:, None]
