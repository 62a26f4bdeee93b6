# SPDX-License-Identifier: Apache-2.0
"""What a converted data set holds."""

from pathlib import Path
from typing import Any

from effdet.annotations import AnnotationTable
from effdet.data import CocoDataset, find_splits, read_split

Boxes = dict[str, list[tuple[Any, ...]]]


def boxes_of(folder: Path, split: str = "train") -> tuple[AnnotationTable, Boxes]:
    """The boxes of a split by the stem of their images."""
    files = find_splits(folder)[split]
    table = read_split(files)
    CocoDataset(table, files.images)  # its images are there
    found: Boxes = {Path(name).stem: [] for name in table.file_names}
    for row in range(len(table.boxes)):
        name = Path(table.file_names[int(table.image_index[row])]).stem
        label = table.category_names[int(table.category_index[row])]
        found[name].append((label, *table.boxes[row].tolist(), bool(table.crowd[row])))
    return table, found
