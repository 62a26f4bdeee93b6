# SPDX-License-Identifier: Apache-2.0
"""An exported file is run and held against PyTorch before it gets its name."""

import contextlib
import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from effdet.bars import Bar
from effdet.boxes import encode_boxes
from effdet.counts import counted
from effdet.data.image_file import IMAGE_SUFFIXES
from effdet.data.images import decode_image
from effdet.data.shapes import draw
from effdet.data.transforms import letterbox
from effdet.errors import DataError, ExportError, UsageError
from effdet.export.comparing import Difference, Rows, compare_detections, compare_rows
from effdet.export.info import ExportInfo
from effdet.export.running import ExportedNetwork
from effdet.levels import as_one_level
from effdet.postprocess import Postprocess
from effdet.structures import Target

MOST_TIES = 0.02
"""Part of the detections that may be others for a rounding."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check found.

    Attributes:
        pictures: on what it was made, in words.
        boxes: largest difference of the raw boxes, pixels of the network's input; None where the
            file gives detections only.
        scores: the same for the raw scores, 0-1.
        detections: the difference of the detections.
    """

    pictures: str
    boxes: float | None
    scores: float | None
    detections: Difference


def check_inputs(info: ExportInfo, files: Sequence[Path], count: int) -> Tensor:
    """Network inputs ``[N, 3, H, W]`` for a check.

    Args:
        info: size and normalisation.
        files: images; pictures are drawn where there are none.
        count: how many to draw.

    Raises:
        DataError: for one that cannot be decoded.
    """
    pixels = [decode_image(file) for file in files] or [
        torch.from_numpy(draw("val", i).pixels).permute(2, 0, 1) for i in range(count)
    ]
    config = info.model_config
    return torch.stack(
        [letterbox(p, config.image_size, config.mean, config.std)[0] for p in pixels]
    )


def find_images(images: str) -> list[Path]:
    """The image files of a pattern, or in a folder; else in the folders in that.

    Raises:
        UsageError: where there are none.
    """
    folder = glob.escape(images)
    for pattern in [f"{folder}/*", f"{folder}/**/*"] if Path(images).is_dir() else [images]:
        found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
        files = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
        if files:
            return files
    raise UsageError(f"--check-images {images}: no image files here")


def first_readable(images: Iterable[Path], count: int) -> list[Path]:
    """The first ``count`` images that can be decoded."""
    found: list[Path] = []
    for image in images:
        if len(found) == count:
            break
        with contextlib.suppress(DataError):  # validation has named it
            decode_image(image)
            found.append(image)
    return found


@torch.no_grad()
def check_file(
    network: nn.Module,
    exported: ExportedNetwork,
    inputs: Tensor,
    pictures: str,
    box_tolerance: float,
    score_tolerance: float,
) -> Check:
    """Run ``network`` and the file on the same inputs.

    Args:
        network: images to logits ``[B, A, K]`` and boxes ``[B, A, 4]``, in PyTorch.
        exported: the file.
        inputs: ``[N, 3, H, W]``.
        pictures: what they are of.
        box_tolerance: pixels by which a detection may be beside a box of the network.
        score_tolerance: the same for scores.
    """
    info = exported.info
    process = exported.build_postprocess(info.postprocess)
    reference = Postprocess(
        anchors=exported.anchors, config=info.postprocess, class_map=info.class_map
    )
    boxes = scores = 0.0
    total = Difference()
    targets = [Target.without_boxes(info.model_config.image_size)]
    for image in Bar(inputs.split(1), "checking", disable=None, leave=False):
        logits, all_boxes = network(image)
        levels, deltas = _levels(logits, all_boxes, exported.anchors)
        (expected,) = reference(levels, deltas, targets)
        rows = Rows(scores=logits[0].sigmoid(), boxes=all_boxes[0])
        if not info.has_detections:
            theirs = exported.outputs(image)
            more = compare_rows(rows, Rows(scores=theirs[0][0].sigmoid(), boxes=theirs[1][0]))
            boxes, scores = max(boxes, more[0]), max(scores, more[1])
        (found,) = process(*exported(image), targets)
        total += compare_detections(expected, found, rows, box_tolerance, score_tolerance)
    return Check(
        pictures=pictures,
        boxes=None if info.has_detections else boxes,
        scores=None if info.has_detections else scores,
        detections=total,
    )


def _levels(logits: Tensor, boxes: Tensor, anchors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    return as_one_level(logits), as_one_level(encode_boxes(boxes, anchors))


def judge(check: Check, box_tolerance: float, score_tolerance: float) -> None:
    """Refuse a file that does not give what PyTorch gives.

    Raises:
        ExportError: naming the figure and its limit.
    """
    found = check.detections
    if check.boxes is None and not found.detections:
        raise ExportError(
            f"nothing was found on {check.pictures}, so the detections could not be compared; give "
            "--check-images with images in which the model finds something; nothing was written"
        )
    for what, value, limit in (
        ("boxes differ by {:.3g} pixels", check.boxes or 0.0, box_tolerance),
        ("scores differ by {:.3g}", check.scores or 0.0, score_tolerance),
        ("boxes of detections differ by {:.3g} pixels", found.boxes, box_tolerance),
        ("scores of detections differ by {:.3g}", found.scores, score_tolerance),
        ("{:g} detections are in one and not in the other", found.missing, 0),
    ):
        if value > limit:
            raise ExportError(
                f"the file does not give what PyTorch gives on {check.pictures}: "
                f"{what.format(value)}, more than {limit:g}; nothing was written"
            )
    if found.ties > max(2, MOST_TIES * found.detections):
        raise ExportError(
            f"{found.ties} of {found.detections} detections on {check.pictures} are ties: boxes "
            "whose scores or overlaps are equal but for rounding, so that either may be left out, "
            f"and more than {MOST_TIES:.0%} of them prove nothing; take a trained checkpoint, or "
            "other --check-images with clear objects; nothing was written"
        )


def format_check(check: Check, threshold: float) -> str:
    """The check in two lines; detections are what is scored above ``threshold``."""
    found = check.detections
    lines = []
    if check.boxes is not None and check.scores is not None:
        lines.append(
            f"raw outputs     boxes within {check.boxes:.2g} pixels, scores within "
            f"{check.scores:.2g}"
        )
    text = counted(found.detections, "detection")
    if found.detections:
        text += f", boxes within {found.boxes:.2g} pixels, scores within {found.scores:.2g}"
    if found.ties:
        text += f", {found.ties} others where scores tie"
    if not found.detections:
        text += (
            f" on these pictures (scores above {threshold:g}): the raw outputs alone were compared"
        )
    return "\n".join([*lines, f"detections      {text}"])
