# SPDX-License-Identifier: Apache-2.0
"""The outcome of a check as a page, with pictures of what was found."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from effdet.check.findings import Example, Finding
from effdet.check.report import CheckReport
from effdet.check.text import format_example, summary
from effdet.data.images import inspect_image
from effdet.drawing import class_color, draw_boxes, to_picture
from effdet.errors import DataError
from effdet.names import shown_name
from effdet.page import Page, Section

TITLES = {"error": "Errors", "warning": "Warnings", "info": "Good to know"}
SIDE = 420
"""Pixels of the longer side of a picture."""

GAP = 4
"""Pixels between two pictures."""

CLASSES = 40
"""Classes of the chart: those with most boxes."""


def build_page(report: CheckReport, max_pixels: int, command: str) -> Page:
    """The page of a check.

    Args:
        report: what was found.
        max_pixels: images with more are not shown.
        command: what to do next.
    """
    page = Page(f"Check of {report.data}", summary(report))
    _add_splits(page, report)
    for severity, title in TITLES.items():
        found = [f for f in report.findings if f.kind.severity == severity]
        if found:
            section = page.section(title)
            for finding in found:
                _add_finding(section, finding, max_pixels)
    _add_anchors(page, report)
    page.section("Next").command(command)
    return page


def write_page(report: CheckReport, path: str | Path, max_pixels: int, command: str) -> None:
    """Write the page; a file of that name is replaced.

    Raises:
        WriteError: naming file and reason.
    """
    build_page(report, max_pixels, command).write(path)


def _add_splits(page: Page, report: CheckReport) -> None:
    section = page.section("Splits")
    section.table(
        ["split", "format", "images", "without boxes", "boxes", "crowd", "classes"],
        [
            [s.name, s.format, s.images, s.without_boxes, s.boxes, s.crowd, len(s.classes)]
            for s in report.splits
        ],
        numeric={2, 3, 4, 5, 6},
    )
    if not report.splits:
        return
    first = report.splits[0].classes
    names = sorted(first, key=first.__getitem__, reverse=True)[:CLASSES]
    rows = [[shown_name(name), *(s.classes.get(name) for s in report.splits)] for name in names]
    header = ["class", *(f"boxes in {split.name}" for split in report.splits)]
    section.table(header, rows, numeric=set(range(1, len(header))))


def _add_finding(section: Section, finding: Finding, max_pixels: int) -> None:
    kind = finding.kind
    where = ", ".join(f"{name} {count:,}" for name, count in finding.splits.items())
    section.heading(f"{kind.id}: {finding.count:,} ({where})")
    section.text(f"{kind.meaning} {kind.advice}")
    shown, rest = [], []
    for example in finding.examples:
        picture = draw_example(example, max_pixels)
        if picture is None:
            rest.append([format_example(example)])
        else:
            shown.append((picture, format_example(example)))
    if shown:
        section.pictures(shown, side=SIDE)
    if rest:
        section.table(["example"], rest)


def draw_example(example: Example, max_pixels: int) -> Image.Image | None:
    """The image of an example with its box; None where there is none or it cannot be decoded.

    One of two that are alike has the other at its side.
    """
    picture, scale = _small_picture(example.path, max_pixels)
    if picture is None:
        return None
    if example.box is not None:
        boxes = torch.tensor([example.box]) * scale
        draw_boxes(picture, boxes, [shown_name(example.category or "")], [class_color(0)])
    other, _ = _small_picture(example.other, max_pixels)
    return picture if other is None else _side_by_side(picture, other)


def _small_picture(path: Path | None, max_pixels: int) -> tuple[Image.Image | None, float]:
    """An image as large as it is seen, since lines are drawn for that, and its scale."""
    if path is None:
        return None, 1.0
    try:
        picture = to_picture(inspect_image(path, max_pixels).upright())
    except DataError:
        return None, 1.0
    scale = min(1.0, SIDE / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX), scale


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    width, height = left.width + right.width + GAP, max(left.height, right.height)
    both = Image.new("RGB", (width, height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both


def _add_anchors(page: Page, report: CheckReport) -> None:
    anchors = report.anchors
    if anchors is None:
        return
    height, width = anchors.image_size
    rows: list[Sequence[str | float]] = [
        [name, found.anchors, f"{100 * found.reached:.1f} %", found.mean_iou]
        for name, found in (("now", anchors.own), ("better", anchors.better))
        if found is not None
    ]
    section = page.section(
        "Anchors",
        f"{anchors.model} at {width} x {height}, {anchors.boxes:,} boxes of {anchors.split}: the "
        "part of them that some anchor reaches at IoU 0.5.",
    )
    section.table(["", "--anchors", "reached", "mean best IoU"], rows, numeric={2, 3})
    if anchors.better is None:
        section.text("No others were found that reach clearly more.")
