# SPDX-License-Identifier: Apache-2.0
"""From the boxes of a split, collected row by row, to the table that all formats become."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from effdet.annotations import AnnotationTable, Faults, Names, check_image_files
from effdet.annotations.faults import SHOWN
from effdet.annotations.table import Floats, Ids
from effdet.data.formats.header_sizes import fill_sizes
from effdet.data.formats.split import SplitFiles
from effdet.structures import ClassMap

Box = tuple[float, float, float, float]

CORNERS = ("xmin", "ymin", "xmax", "ymax")
"""What formats that have corners call them."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reader of any format is given.

    Attributes:
        files: where the split is.
        class_map: classes of a model, for formats without ids: names get their ids.
        faults: collects.
        follow_links: read files that a link leads to outside of the data folder.
        salvage: read what is sound although there are faults, for a look at it.
    """

    files: SplitFiles
    class_map: ClassMap | None
    faults: Faults
    follow_links: bool = False
    salvage: bool = False

    def within(self, path: Path) -> Path | None:
        """The folder that links of ``path`` must stay in; None: they may lead anywhere."""
        return self.files.within(path, self.follow_links)

    def ends(self, *needed: object) -> bool:
        """Whether there are faults and no table: ``needed`` is what none can be without."""
        return len(self.faults) > 0 and not (self.salvage and all(needed))


@dataclass(kw_only=True, eq=False)
class Rows:
    """What a reader collects of one split.

    Attributes:
        files: file names of the images, relative to the image folder.
        sizes: (height, width) of the images in pixels; 0 where it is not recorded.
        images: for each box the position of its image.
        labels: for each box the position of its class in ``classes``.
        boxes: as the format writes them.
        crowd: for each box whether it is a region to be ignored.
        lines: for each box the number of its line or object, from 1.
        classes: name -> position, in the order in which they were met.
    """

    files: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)

    def add_boxes(
        self,
        image: int,
        labels: Sequence[int],
        boxes: Sequence[Box],
        lines: Sequence[int],
        crowd: bool = False,
    ) -> None:
        """Add boxes, all of which are crowd regions or none, of the image at a position."""
        self.images += [image] * len(labels)
        self.labels += labels
        self.boxes += boxes
        self.lines += lines
        self.crowd += [crowd] * len(labels)

    def keep_boxes(self, keep: Sequence[bool]) -> None:
        """Leave out the boxes of which ``keep`` is not true."""
        if not all(keep):
            for name in ("images", "labels", "boxes", "crowd", "lines"):
                setattr(self, name, list(itertools.compress(getattr(self, name), keep)))

    def label_of(self, name: str) -> int:
        """Position of a class, a new one if need be."""
        return self.classes.setdefault(name, len(self.classes))

    def sort_classes(self, order: Sequence[str]) -> None:
        """Make ``labels`` positions in ``order``, which has all of ``classes``."""
        position = {name: k for k, name in enumerate(order)}
        new = [position[name] for name in self.classes]
        self.labels = [new[label] for label in self.labels]

    def box_array(self) -> Floats:
        """``[M, 4]`` the boxes."""
        return np.array(self.boxes, np.float64).reshape(-1, 4)


def check_and_size(rows: Rows, reading: Reading, place: Callable[[int], str]) -> Ids:
    """``[N, 2]`` sizes of the images, which must be there; where not recorded, read.

    Of a reading that salvages, sizes are read of the images without faults.

    Args:
        rows: what was read.
        reading: of which split.
        place: where the name of an image stands.
    """
    ids, folder, faults = range(1, len(rows.files) + 1), reading.files.images, reading.faults
    check_image_files(rows.files, ids, folder, faults, within=reading.within(folder), place=place)
    sizes = np.array(rows.sizes, np.int64).reshape(-1, 2)
    if not len(faults):
        fill_sizes(sizes, rows.files, folder, faults, place)
    elif reading.salvage:
        spoilt = [fault.image_id - 1 for fault in faults.kept if fault.image_id is not None]
        sizes[sizes < 0] = 0
        sizes[spoilt] = -1
        fill_sizes(sizes, rows.files, folder, Faults(faults.file), place)
        sizes[spoilt] = 0
    return sizes


def count_mended(mended: Faults, kind: str, place: str, expected: str, found: str) -> None:
    """Take what was read as what it means; it may be in every row, which is no reason to stop."""
    if mended.counts[kind] < SHOWN:
        mended.add(kind, place, expected, found)
    else:
        mended.counts[kind] += 1


def build_table(
    name: str,
    rows: Rows,
    sizes: Ids,
    boxes: Floats,
    category_ids: Ids,
    category_names: tuple[str, ...],
    where: Callable[[int], str],
    written: Callable[[int], str],
    mended: Faults | None = None,
) -> AnnotationTable:
    """The table of a split without faults; images and boxes are numbered from 1.

    Args:
        name: how messages call the file.
        rows: what was read; ``labels`` are positions in ``category_ids``.
        sizes: ``[N, 2]`` (height, width).
        boxes: ``[M, 4]`` x, y, width, height in pixels.
        category_ids: ``[K]``.
        category_names: ``[K]``.
        where: says where a box stands.
        written: gives a box as the file has it.
        mended: what was read as what it means; None: nothing.
    """
    return AnnotationTable(
        name=name,
        image_ids=np.arange(1, len(rows.files) + 1, dtype=np.int64),
        sizes=sizes,
        file_names=Names(rows.files),
        category_ids=category_ids,
        category_names=category_names,
        ids=np.arange(1, len(boxes) + 1, dtype=np.int64),
        image_index=np.array(rows.images, np.int64),
        category_index=np.array(rows.labels, np.int64),
        boxes=boxes,
        areas=np.abs(boxes[:, 2] * boxes[:, 3]),
        crowd=np.array(rows.crowd, bool),
        filled={},
        mended=Faults(name) if mended is None else mended,
        where=where,
        written=written,
    )


def corners_written(corners: Floats) -> Callable[[int], str]:
    """Gives a row of ``[M, 4]`` corners as a file has it: ``xmin 1, ymin 2, xmax 3, ymax 4``."""

    def written(row: int) -> str:
        return ", ".join(
            f"{key} {value:.10g}" for key, value in zip(CORNERS, corners[row].tolist())
        )

    return written
