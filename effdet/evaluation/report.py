# SPDX-License-Identifier: Apache-2.0
"""Figures and detections as text and as files."""

from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from effdet.counts import counted
from effdet.evaluation.coco import ClassFigures, Metrics
from effdet.evaluation.files import Results
from effdet.files import check_output, replace_text, write_atomically
from effdet.names import json_text, shown_name

_MEANING = {
    "AP": "IoU 0.50:0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small boxes (area below 32^2 pixels)",
    "APm": "medium boxes",
    "APl": "large boxes (area above 96^2 pixels)",
    "AR1": "recall with 1 detection an image and class",
    "AR10": "recall with 10 detections",
    "AR100": "recall with 100 detections",
    "ARs": "recall of small boxes",
    "ARm": "recall of medium boxes",
    "ARl": "recall of large boxes",
}


def format_metrics(metrics: Metrics) -> str:
    """The twelve figures and, for more than one class, a table of classes, best first.

    A dash stands for a figure that the ground truth has no box for.
    """
    lines = [counted(metrics.images, "image")]
    if metrics.bad_images:
        lines.append(f"{metrics.bad_images} of them are bad: their boxes count as missed")
    for name, value in metrics.figures.items():
        lines.append(f"  {name:<5}  {_number(value)}  {_MEANING[name]}")
    if len(metrics.per_class) > 1:
        lines += ["", *_class_table(metrics.per_class)]
    return "\n".join(lines)


def _class_table(rows: tuple[ClassFigures, ...]) -> list[str]:
    names = {row.category_id: shown_name(row.name) for row in rows}
    width = max(len("class"), *map(len, names.values()))
    lines = [f"  {'class':<{width}}  {'AP':>6}  {'AP50':>6}  {'boxes':>7}"]
    # Classes without a box have no AP and stand last; equal ones keep the order of their ids.
    for row in sorted(rows, key=lambda row: -1 if row.ap is None else row.ap, reverse=True):
        name = f"{names[row.category_id]:<{width}}"
        lines.append(f"  {name}  {_number(row.ap)}  {_number(row.ap50)}  {row.boxes:>7}")
    return lines


def _number(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{value:6.3f}"


def metrics_to_dict(metrics: Metrics) -> dict[str, Any]:
    """Plain values: COCO's twelve names, the counts of images, and ``per_class`` as rows."""
    per_class = [
        {
            "category_id": row.category_id,
            "name": row.name,
            "boxes": row.boxes,
            "AP": row.ap,
            "AP50": row.ap50,
        }
        for row in metrics.per_class
    ]
    counts = {"images": metrics.images, "bad_images": metrics.bad_images}
    return {**metrics.figures, **counts, "per_class": per_class}


def write_metrics(metrics: Metrics, path: str | Path) -> None:
    """Write :func:`metrics_to_dict` as JSON, ``null`` for what the ground truth has no box for.

    An existing file is replaced, whole or not at all.
    """
    check_output(path)
    replace_text(path, json_text(metrics_to_dict(metrics), indent=2) + "\n")


def write_results(results: Results, path: str | Path) -> None:
    """Write a COCO results file: a list of (image_id, category_id, bbox, score).

    Numbers are written in full, so scoring the file gives the same figures to the last digit. An
    existing file is replaced, whole or not at all.

    Raises:
        ValueError: for boxes or scores that are not finite.
    """

    def write(file: BinaryIO) -> None:
        encode, separator = msgspec.json.Encoder().encode, b"[\n"
        for entry in results:
            file.write(separator + encode(entry))
            separator = b",\n"
        file.write(b"\n]\n" if len(results) else b"[]\n")

    if not (np.isfinite(results.boxes).all() and np.isfinite(results.scores).all()):
        raise ValueError("boxes and scores must be finite")
    check_output(path)
    write_atomically(path, write)
