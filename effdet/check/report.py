# SPDX-License-Identifier: Apache-2.0
"""The whole check of a data set, and its outcome."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effdet import __version__
from effdet.check.anchors import AnchorReport, check_anchors
from effdet.check.boxes import boxes_by_image, check_boxes
from effdet.check.classes import categories, check_categories, counts
from effdet.check.copies import check_copies
from effdet.check.files import check_files
from effdet.check.findings import Example, Finding, Findings, count_of
from effdet.check.pictures import check_pictures, look_at_all
from effdet.check.reading import Split, read_splits
from effdet.check.registry import SEVERITIES
from effdet.config import ModelConfig
from effdet.counts import counted
from effdet.data import find_splits
from effdet.data.formats import SplitFiles
from effdet.errors import DataError, nearest, printable

FORMAT, VERSION = "effdet-check", 1
"""Of the JSON; the version changes where a program that reads it would have to."""


@dataclass(frozen=True, kw_only=True)
class SplitFigures:
    """What a split holds.

    Attributes:
        name: our word for it.
        format: of its annotations.
        annotations: where they are.
        images: records of images.
        without_boxes: of these.
        boxes: annotations, crowd regions included.
        crowd: crowd regions.
        classes: category name -> boxes, crowd regions left out.
    """

    name: str
    format: str
    annotations: str
    images: int
    without_boxes: int
    boxes: int
    crowd: int
    classes: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "classes": dict(self.classes)}


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What was found in a data set.

    Attributes:
        data: the folder, as it was given.
        decoded: whether images were decoded.
        splits: figures of each split that could be read.
        findings: from bad to good.
        anchors: None where there are no boxes.
    """

    data: str
    decoded: bool
    splits: tuple[SplitFigures, ...]
    findings: tuple[Finding, ...]
    anchors: AnchorReport | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for programs; ``examples`` are the first of each finding."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "effdet": __version__,
            "data": self.data,
            "images_decoded": self.decoded,
            "counts": {severity: count_of(self.findings, severity) for severity in SEVERITIES},
            "splits": [split.to_dict() for split in self.splits],
            "findings": [_finding_to_dict(finding) for finding in self.findings],
            "anchors": None if self.anchors is None else self.anchors.to_dict(),
        }

    def raise_if_errors(self) -> None:
        """Raise a :class:`DataError` that names the errors, where there are any."""
        ids = [f"{f.kind.id} ({f.count:,})" for f in self.findings if f.kind.severity == "error"]
        if ids:
            raise DataError(
                f"{printable(self.data)}: {counted(len(ids), 'kind')} of errors: {', '.join(ids)}"
            )


def check_data(
    data: str,
    config: ModelConfig,
    *,
    splits: Sequence[str] = (),
    images: bool = True,
    workers: int | None = None,
    max_pixels: int,
    follow_links: bool = False,
    examples: int = 5,
) -> CheckReport:
    """Look for everything that is wrong with a data set.

    Args:
        data: the data folder, or the name of the built-in set.
        config: the model whose anchors and input size are looked at.
        splits: the only ones to look at; none: all.
        images: decode every image.
        workers: images decoded at once; None: by CPUs.
        max_pixels: images with more are not decoded.
        follow_links: read images that links lead to outside of the image folder.
        examples: of each finding.

    Raises:
        DataError: where there is no such folder or split.
    """
    findings = Findings(examples)
    files = find_splits(data)
    chosen = _choose(files, splits)
    found = read_splits(chosen, findings, follow_links=follow_links)
    if not splits:
        _check_splits(files, findings)
    complete = not splits and len(found) == len(files)
    found = check_files(found, findings, follow_links=follow_links, all_splits=complete)
    check_categories(found, findings)
    found = [check_boxes(split, config.image_size, findings) for split in found]
    anchors = check_anchors(found, config, findings)
    if images:
        pictures = look_at_all(found, max_pixels=max_pixels, workers=workers)
        for split, seen in zip(found, pictures, strict=True):
            check_pictures(split, seen, findings)
        check_copies(found, pictures, findings)
    return CheckReport(
        data=data,
        decoded=images,
        splits=tuple(map(_figures, found)),
        findings=tuple(findings.sorted()),
        anchors=anchors,
    )


def next_command(report: CheckReport, options: Sequence[str]) -> str:
    """What to do next, as a person types it.

    Args:
        report: what was found.
        options: of this check that training needs as well.
    """
    if count_of(report.findings, "error"):
        return f"mend the errors, then: effdet check {shlex.quote(report.data)}"
    name = Path(report.data).resolve().name or "mine"
    words = ["python", "train.py", "--data", report.data, "--preset", "finetune", *options]
    if report.anchors is not None and report.anchors.are_poor:
        assert report.anchors.better is not None
        words += ["--anchors", report.anchors.better.anchors]
        words += ["--partial-weights"] if "--partial-weights" not in words else []
    return shlex.join([*words, "--output", f"runs/{name}"])


def _choose(files: Mapping[str, SplitFiles], splits: Sequence[str]) -> list[SplitFiles]:
    for name in splits:
        if name not in files:
            raise DataError(
                f"no split {printable(name)!r}{nearest(name, files)}; there are {', '.join(files)}"
            )
    chosen = [files[name] for name in splits] if splits else list(files.values())
    return sorted(chosen, key=lambda f: (not f.name.startswith("train"), f.name == "test"))


def _check_splits(files: Mapping[str, SplitFiles], findings: Findings) -> None:
    missing = [
        word for word in ("train", "val") if not any(name.startswith(word) for name in files)
    ]
    there = ", ".join(files)
    for word in missing:
        example = Example(split=next(iter(files)), text=f"no split {word}; there are {there}")
        findings.add("splits.missing", example.split, [example], 1)


def _figures(split: Split) -> SplitFigures:
    table, names, by_id = split.table, categories(split), counts(split)
    classes: dict[str, int] = {}
    for id_, name in names.items():
        classes[name] = classes.get(name, 0) + by_id[id_]
    return SplitFigures(
        name=split.name,
        format=split.files.format,
        annotations=str(split.files.annotations),
        images=len(table.image_ids),
        without_boxes=int(np.count_nonzero(boxes_by_image(split) == 0)),
        boxes=len(table.boxes),
        crowd=int(table.crowd.sum()),
        classes=classes,
    )


def _finding_to_dict(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.kind.id,
        "severity": finding.kind.severity,
        "count": finding.count,
        "splits": finding.splits,
        "meaning": finding.kind.meaning,
        "advice": finding.kind.advice,
        "examples": [example.to_dict() for example in finding.examples],
    }
