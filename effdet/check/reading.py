# SPDX-License-Identifier: Apache-2.0
"""The splits of a data set as far as they can be read; what cannot is found."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.annotations import (
    AnnotationError,
    AnnotationTable,
    Fault,
    Faults,
)
from effdet.annotations.rows import NO_ID
from effdet.check.findings import Box, Example, Findings
from effdet.check.registry import OF_FAULT
from effdet.data.formats import SplitFiles, salvage_split
from effdet.data.formats.split import training_split, validation_split
from effdet.errors import one_line

_SECTIONS = {
    "images": "ids.duplicate_image",
    "annotations": "ids.duplicate_annotation",
    "categories": "ids.duplicate_category",
}


_OF_FILES = {"file-name", "missing-file", "link"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A split that could be read, maybe in part.

    Attributes:
        name: our word for it.
        files: where it is.
        table: its sound rows; boxes are x, y, width, height in pixels, whatever the file has.
        present: ``[N]``, which images have a file that may be opened.
    """

    name: str
    files: SplitFiles
    table: AnnotationTable
    present: NDArray[np.bool_]

    @property
    def has_ids(self) -> bool:
        """Whether ids stand in the file: those of other formats are only counted."""
        return self.files.format == "coco"

    def path(self, image: int) -> Path:
        """The file of the image at a position."""
        name: str = self.table.file_names[image]
        return self.files.images / name

    def image_example(self, image: int, text: str) -> Example:
        """An example that is an image."""
        return Example(
            split=self.name,
            text=text,
            file=self.table.file_names[image] or None,
            path=self.path(image) if self.present[image] else None,
        )

    def box_example(self, row: int, text: str = "") -> Example:
        """An example that is an annotation."""
        table, image = self.table, int(self.table.image_index[row])
        x, y, width, height = table.boxes[row].tolist()
        box: Box = (x, y, x + width, y + height)
        return replace(
            self.image_example(image, text or self.describe_box(row)),
            annotation=int(table.ids[row]) if self.has_ids and table.ids[row] != NO_ID else None,
            category=table.category_names[int(table.category_index[row])],
            box=box,
        )

    def describe_box(self, row: int) -> str:
        """``[1, 2, 30, 40] in 640 x 480``: the box as its file has it, and the image's size.

        In formats other than COCO its place goes before: ``a.xml object 1: xmin 1, ymin ...``.
        """
        table = self.table
        height, width = table.sizes[int(table.image_index[row])].tolist()
        box = f"[{', '.join(f'{side:g}' for side in table.boxes[row].round(2).tolist())}]"
        if table.where is not None and table.written is not None:
            box = f"{table.where(row)}: {table.written(row)}"
        return f"{box} in {width} x {height}"


def training_of(splits: Sequence[Split]) -> Split | None:
    """The split to train on; None where it is not clear, or is not among ``splits``."""
    return _pick(splits, training_split)


def validation_of(splits: Sequence[Split]) -> Split | None:
    """The split to validate on; None where it is not among ``splits``."""
    return _pick(splits, validation_split)


def _pick(splits: Sequence[Split], rule: Callable[[Iterable[str]], str | None]) -> Split | None:
    by_name = {split.name: split for split in splits}
    name = rule(by_name)
    return None if name is None else by_name[name]


def read_splits(
    splits: Iterable[SplitFiles], findings: Findings, *, follow_links: bool
) -> list[Split]:
    """Read what can be read; all that is wrong with the files goes to ``findings``."""
    found = (_read(files, findings, follow_links) for files in splits)
    return [split for split in found if split is not None]


def _read(files: SplitFiles, findings: Findings, follow_links: bool) -> Split | None:
    try:
        table, faults = salvage_split(files, follow_links=follow_links)
    except AnnotationError as error:
        example = Example(split=files.name, text=one_line(error), file=str(files.annotations))
        findings.add("file.unreadable", files.name, [example], 1)
        return None
    _take_faults(files.name, faults, findings, with_files=table is None)
    if table is None:
        if not len(faults):
            text = "no image is in it"
            example = Example(split=files.name, text=text, file=str(files.annotations))
            findings.add("file.unreadable", files.name, [example], 1)
        return None
    _take_repairs(files.name, table, findings)
    present = np.ones(len(table.image_ids), bool)
    # Found already, in formats whose reader opens images for their sizes.
    kept = (f for f in faults.kept if f.kind == "image-file")
    spoilt = [f.image_id for f in kept if f.image_id is not None]
    present[np.isin(table.image_ids, spoilt)] = False
    return Split(name=files.name, files=files, table=table, present=present)


def id_of_fault(fault: Fault) -> str:
    """The id of the finding that a fault is."""
    if fault.kind == "duplicate-id":
        return _SECTIONS.get(fault.place.partition("[")[0], OF_FAULT[fault.kind])
    return OF_FAULT[fault.kind]


def _take_faults(split: str, faults: Faults, findings: Findings, *, with_files: bool) -> None:
    """Every fault but those of image files, unless ``with_files``: these are looked for again."""
    kept = Counter(fault.kind for fault in faults.kept)
    for fault in faults.kept:
        if with_files or fault.kind not in _OF_FILES or fault.image_id is None:
            findings.add(id_of_fault(fault), split, [_example(split, fault)], 1)
    for kind, count in faults.counts.items():  # of those beyond, only the number is known
        findings.add(OF_FAULT[kind], split, [], count - kept[kind])


def _example(split: str, fault: Fault) -> Example:
    return Example(
        split=split,
        text=f"{fault.place}: expected {fault.expected}, found {fault.found}",
        file=fault.image_name,
        annotation=fault.row_id,
    )


def _take_repairs(split: str, table: AnnotationTable, findings: Findings) -> None:
    """What was filled in or read as another type."""
    for fault in table.mended.kept:
        findings.add("file.other_type", split, [_example(split, fault)], 1)
    more = sum(table.mended.counts.values()) - len(table.mended.kept)
    findings.add("file.other_type", split, [], more)
    for kind, rows in table.filled.items():
        text = f"{len(rows):,} annotations have no {kind.removeprefix('no-')}"
        findings.add("file.filled_in", split, [Example(split=split, text=text)], len(rows))
