# SPDX-License-Identifier: Apache-2.0
"""Which boxes some anchor reaches, and anchors that reach more of them.

A box that no anchor reaches at IoU 0.5 is foreground for the one best anchor alone, and is learnt
badly (google/automl's ``force_match_for_each_row``).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.anchors import feature_sizes
from effdet.check.boxes import Size, letterbox_scales, sound_boxes
from effdet.check.findings import Example, Findings
from effdet.check.reading import Split, training_of
from effdet.config import ModelConfig
from effdet.settings.anchors import format_anchors

Floats = NDArray[np.float64]

REACHED = 0.5
"""IoU of an anchor with a box from which on it is foreground."""

SAMPLE = 50_000
"""Boxes at most that are looked at: drawn, always the same ones."""

TRIED = 2_000
"""Boxes that scales are tried on."""

GAIN = 0.02
"""Part of the boxes that other anchors must reach beyond the model's to be worth naming."""

TOO_FEW = 0.9
"""Part of the boxes that should be reached."""

POOR = 0.6
"""Below this part, less than COCO's own 0.64, other anchors are put into the next command."""

_ROUNDS = 50


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How well anchors fit boxes.

    Attributes:
        anchors: as ``--anchors`` takes them.
        reached: part of the boxes with an IoU of 0.5 or more.
        mean_iou: mean over the boxes of the best IoU.
    """

    anchors: str
    reached: float
    mean_iou: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, rounded."""
        return {
            "anchors": self.anchors,
            "reached": round(self.reached, 4),
            "mean_iou": round(self.mean_iou, 4),
        }


@dataclass(frozen=True, kw_only=True)
class AnchorReport:
    """Anchors of a model on the boxes of a split.

    Attributes:
        split: its name.
        boxes: how many were looked at.
        model: name of the model.
        image_size: ``(height, width)`` of its input.
        own: of the model's anchors.
        better: of the suggested ones, None where they are not worth it.
    """

    split: str
    boxes: int
    model: str
    image_size: Size
    own: Reach
    better: Reach | None

    @property
    def are_poor(self) -> bool:
        """Whether the model's anchors miss so much that the suggested ones are the better start."""
        return self.better is not None and self.own.reached < POOR

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "split": self.split,
            "boxes": self.boxes,
            "model": self.model,
            "image_size": list(self.image_size),
            "own": self.own.to_dict(),
            "better": None if self.better is None else self.better.to_dict(),
        }


def check_anchors(
    splits: Sequence[Split], config: ModelConfig, findings: Findings
) -> AnchorReport | None:
    """Look at the boxes that are trained on; None where there is none."""
    split = training_of(splits) or next(iter(splits), None)
    if split is None:
        return None
    rows, boxes = network_boxes(split, config.image_size)
    if not len(boxes):
        return None
    ious = best_ious(boxes, config)
    own = _reach(config, ious)
    better = suggest(boxes, config)
    found = None
    if better is not None:
        found = _reach(better, best_ious(boxes, better))
        if found.reached - own.reached < GAIN:
            found = None
    report = AnchorReport(
        split=split.name,
        boxes=len(boxes),
        model=config.name,
        image_size=config.image_size,
        own=own,
        better=found,
    )
    _tell(report, split, rows, ious, findings)
    return report


def _tell(
    report: AnchorReport, split: Split, rows: NDArray[np.int64], ious: Floats, findings: Findings
) -> None:
    missed = np.flatnonzero(ious < REACHED)
    if report.own.reached < TOO_FEW:
        worst = missed[np.argsort(ious[missed], kind="stable")]
        best = dict(zip(rows[worst].tolist(), ious[worst].tolist(), strict=True))
        findings.add_rows(
            "anchors.unreached",
            split.name,
            best,
            lambda row: split.box_example(
                row, f"{split.describe_box(row)}, best IoU {best[row]:.2f}"
            ),
        )
    if report.better is not None:
        gain = 100 * (report.better.reached - report.own.reached)
        text = f"--anchors {report.better.anchors} reaches {gain:.1f} % more of the boxes"
        findings.add("anchors.better", split.name, [Example(split=split.name, text=text)], 1)


def network_boxes(split: Split, image_size: Size) -> tuple[NDArray[np.int64], Floats]:
    """Rows ``[M]`` of usable boxes, and these as centre and size ``[M, 4]`` on the input."""
    table = split.table
    sides = table.sizes[table.image_index][:, ::-1].astype(np.float64)
    rows = np.flatnonzero(sound_boxes(split) & sides.all(axis=1))
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(rows, SAMPLE, replace=False))
    boxes, sides = table.boxes[rows], sides[rows]
    start = boxes[:, :2].clip(0, sides)
    end = (boxes[:, :2] + boxes[:, 2:]).clip(0, sides)
    inside = np.all(end > start, axis=1)
    scale = letterbox_scales(sides, image_size)[:, None]
    found = np.concatenate([(start + end) / 2 * scale, (end - start) * scale], axis=1)
    return rows[inside], found[inside]


def best_ious(boxes: Floats, config: ModelConfig) -> Floats:
    """``[M]``: the IoU of each box with the anchor that fits it best.

    Of anchors of one size that with the nearest centre fits best: what two boxes share only falls
    with the distance of their centres, in each direction by itself.

    Args:
        boxes: ``[M, 4]`` centre x, y, width, height on the network's input.
        config: the model.
    """
    best = np.zeros(len(boxes))
    shapes = anchor_shapes(config)
    centres, sides = np.ascontiguousarray(boxes.T).reshape(2, 2, -1)  # [x y, M] and [w h, M]
    area = sides[0] * sides[1]
    for cells in feature_sizes(config.image_size, config.min_level, config.max_level):
        grid = np.array(cells[::-1])[:, None]  # columns, rows
        stride = np.array(config.image_size[::-1])[:, None] / grid
        nearest = np.clip(np.floor(centres / stride), 0, grid - 1)
        offset = np.abs((nearest + 0.5) * stride - centres)
        for shape in shapes:
            anchor = shape[:, None] * stride
            # Two stretches of one axis share what their halves reach beyond the distance.
            shared = (sides + anchor) / 2 - offset
            shared = np.minimum(shared, np.minimum(sides, anchor)).clip(0)
            both = shared[0] * shared[1]
            np.maximum(best, both / (area + anchor.prod() - both), out=best)
    return best


def anchor_shapes(config: ModelConfig) -> Floats:
    """``[octaves * aspect ratios, 2]``: width and height of anchors in strides."""
    octaves = config.anchor_scale * 2 ** (np.arange(config.num_scales) / config.num_scales)
    aspects = np.sqrt(np.array(config.aspect_ratios))
    sides = np.stack([aspects, 1 / aspects], axis=1)
    shapes: Floats = (octaves[:, None, None] * sides).reshape(-1, 2)
    return shapes


def suggest(boxes: Floats, config: ModelConfig) -> ModelConfig | None:
    """``config`` with as many anchors of other shapes that fit ``boxes`` better.

    Aspect ratios are the centres of a k-means with 1 - IoU as the distance; then the scale is the
    one of many that reaches most. As many as before: the heads of trained weights fit them still.
    """
    if len(boxes) > TRIED:
        boxes = boxes[np.random.default_rng(0).choice(len(boxes), TRIED, replace=False)]
    tried = [config.aspect_ratios, _ratios_of(boxes, config.aspect_ratios)]
    best, best_value = None, _value(best_ious(boxes, config))
    for aspect_ratios in tried:
        for scale in _SCALES:
            other = dataclasses.replace(config, aspect_ratios=aspect_ratios, anchor_scale=scale)
            value = _value(best_ious(boxes, other))
            if value > best_value:
                best, best_value = other, value
    return best


def _ratios_of(boxes: Floats, own: tuple[float, ...]) -> tuple[float, ...]:
    """Aspect ratios of clusters of ``boxes``; ``own`` ones in the place of those that coincide.

    In the order of ``own``: what heads have learnt of wide boxes stays with such.
    """
    centres = aspect_clusters(np.log(boxes[:, 2] / boxes[:, 3]), len(own))
    found = [float(f"{ratio:.2g}") for ratio in np.exp(centres).clip(0.01, 100)]
    ratios = sorted(list(dict.fromkeys([*found, *own]))[: len(own)])
    return tuple(ratios[rank] for rank in np.argsort(np.argsort(own)))


_SCALES = tuple(round(float(scale), 1) for scale in np.geomspace(0.8, 8, 21))
"""Sides of the smallest square anchor in strides."""


def aspect_clusters(logs: Floats, count: int) -> Floats:
    """``[count]`` rising logarithms of aspect ratios: the centres of a k-means.

    Boxes of one area whose ratios differ by a factor r have the IoU 1 / (2 sqrt(r) - 1).

    Args:
        logs: ``[M]`` logarithms of width / height.
        count: of clusters.
    """
    centres = np.quantile(logs, (np.arange(count) + 0.5) / count)
    for _ in range(_ROUNDS):
        ious = 1 / (2 * np.exp(np.abs(logs[:, None] - centres) / 2) - 1)
        nearest = ious.argmax(axis=1)
        # The mean weighted by the slope of the IoU: far boxes, which are lost anyway, pull less.
        weight = ious[np.arange(len(logs)), nearest]
        total = np.bincount(nearest, weight, minlength=count)
        mean = np.bincount(nearest, weight * logs, minlength=count) / np.maximum(total, 1e-9)
        moved = np.where(total > 0, mean, centres)
        if np.allclose(moved, centres, atol=1e-4):
            break
        centres = moved
    return np.sort(centres)


def _value(ious: Floats) -> tuple[float, float]:
    return float((ious >= REACHED).mean()), float(ious.mean())


def _reach(config: ModelConfig, ious: Floats) -> Reach:
    reached, mean = _value(ious)
    return Reach(anchors=format_anchors(config), reached=reached, mean_iou=mean)
