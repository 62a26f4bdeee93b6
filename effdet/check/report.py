# SPDX-License-Identifier: Apache-2.0
"""The whole check of a data set, and its outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from effdet.data.formats.split import training_split, validation_split
from effdet.errors import DataError, UsageError, nearest, printable

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
        split_names: all splits of the data set, looked at or not.
        findings: from bad to good.
        anchors: None where there are no boxes.
    """

    data: str
    decoded: bool
    splits: tuple[SplitFigures, ...]
    split_names: tuple[str, ...]
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
        follow_links: read files that links lead to outside of the data folder.
        examples: of each finding.

    Raises:
        DataError: where there is no such folder.
        UsageError: where there is no such split.
    """
    findings = Findings(examples)
    files = find_splits(data)
    found = _read(files, splits, findings, follow_links)
    found = [check_boxes(split, config.image_size, findings) for split in found]
    anchors = check_anchors(found, config, findings)
    if images:
        _check_images(found, findings, max_pixels, workers)
    return CheckReport(
        data=data,
        decoded=images,
        splits=tuple(map(_figures, found)),
        split_names=tuple(files),
        findings=tuple(findings.sorted()),
        anchors=anchors,
    )


def _read(
    files: Mapping[str, SplitFiles], splits: Sequence[str], findings: Findings, follow_links: bool
) -> list[Split]:
    """The chosen splits, of which records, files and categories are looked at."""
    found = read_splits(_choose(files, splits), findings, follow_links=follow_links)
    if not splits:
        _check_splits(list(files), findings)
    complete = not splits and len(found) == len(files)
    found = check_files(found, findings, follow_links=follow_links, all_splits=complete)
    check_categories(found, findings)
    return found


def _check_images(
    splits: Sequence[Split], findings: Findings, max_pixels: int, workers: int | None
) -> None:
    """Decode all images, look at each and compare them."""
    pictures = look_at_all(splits, max_pixels=max_pixels, workers=workers)
    for split, seen in zip(splits, pictures, strict=True):
        check_pictures(split, seen, findings)
    check_copies(splits, pictures, findings)


def _choose(files: Mapping[str, SplitFiles], splits: Sequence[str]) -> list[SplitFiles]:
    for name in splits:
        if name not in files:
            raise UsageError(f"--splits: no split {printable(name)!r}{nearest(name, files)}")
    chosen = [files[name] for name in splits] if splits else list(files.values())
    train = training_split(files)
    return sorted(chosen, key=lambda f: (f.name != train, f.name == "test"))


def _check_splits(names: Sequence[str], findings: Findings) -> None:
    for word, found in (("train", training_split(names)), ("val", validation_split(names))):
        if found is None:
            text = f"no split {word}; there are {', '.join(names)}"
            findings.add("splits.missing", names[0], [Example(split=names[0], text=text)], 1)


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
