# SPDX-License-Identifier: Apache-2.0
"""Training images drawn to be a validation set; copies of an image stay on one side."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.annotations import AnnotationTable, Names
from effdet.annotations.table import Ids
from effdet.data.image_file import read_file
from effdet.errors import DataError


def draw_apart(paths: Sequence[Path], share: float, seed: int) -> NDArray[np.bool_]:
    """``[N]``, which images are set apart: about ``share`` of them, drawn by ``seed``.

    Args:
        paths: ``[N]`` image files; those that are the same byte by byte go together, so that
            nothing is validated on what was trained on.
        share: part of the images, 0-1.
        seed: of the draw.
    """
    groups, chosen = _copies(paths), np.zeros(len(paths), bool)
    wanted = round(share * len(paths))
    for number in np.random.default_rng(seed).permutation(len(groups)).tolist():
        if chosen.sum() + len(groups[number]) <= wanted:
            chosen[groups[number]] = True
    return chosen


def rows_of(table: AnnotationTable, images: Ids) -> AnnotationTable:
    """The table with the images at some positions alone."""
    position = np.full(len(table.image_ids), -1)
    position[images] = np.arange(len(images))
    kept = np.flatnonzero(position[table.image_index] >= 0)
    return replace(
        table,
        image_ids=table.image_ids[images],
        sizes=table.sizes[images],
        file_names=Names([table.file_names[index] for index in images.tolist()]),
        ids=table.ids[kept],
        image_index=position[table.image_index[kept]],
        category_index=table.category_index[kept],
        boxes=table.boxes[kept],
        areas=table.areas[kept],
        crowd=table.crowd[kept],
        filled={kind: np.flatnonzero(np.isin(kept, rows)) for kind, rows in table.filled.items()},
        where=None,
        written=None,
    )


def _copies(paths: Sequence[Path]) -> list[list[int]]:
    """Positions of equal files, group by group; only files of equal size are read."""
    sizes = [_size(path) for path in paths]
    counts = Counter(sizes)
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        groups[_content(path) if size and counts[size] > 1 else path].append(index)
    return list(groups.values())


def _size(path: Path) -> int:
    """Bytes; 0 where there is no file, which need not be where annotations alone are written."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _content(path: Path) -> Hashable:
    try:
        return hashlib.sha256(read_file(path)).digest()
    except DataError:  # told where the image is needed
        return path
