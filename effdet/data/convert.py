# SPDX-License-Identifier: Apache-2.0
"""A data set of any format written in another one, and what that format cannot hold."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from effdet.annotations import AnnotationTable, Faults, Names, check_image_files, fault_of_name
from effdet.annotations.image_files import EXPECTED
from effdet.annotations.table import Ids
from effdet.data.formats import SplitFiles, read_split, write_coco, write_voc, write_yolo
from effdet.data.formats.split import listed
from effdet.data.images import read_size
from effdet.data.locate import find_splits
from effdet.errors import DataError, UsageError, shown
from effdet.files import new_folder, write_error
from effdet.settings.convert_data import ImageFiles, Target

WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written.

    Attributes:
        source: format that was read.
        images: split -> images.
        boxes: split -> boxes that were read.
        lost: what the new format cannot hold, in words, and how often it was met.
    """

    source: str
    images: dict[str, int]
    boxes: dict[str, int]
    lost: Counter[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """A split that is to be written, with its images."""

    name: str
    files: SplitFiles
    table: AnnotationTable


def convert_data(
    source: str | Path,
    output: str | Path,
    to: Target,
    *,
    images: ImageFiles = "copy",
    val_share: float = 0.0,
    seed: int = 0,
    follow_links: bool = False,
) -> Conversion:
    """Write a data set in another format.

    Args:
        source: the data folder.
        output: a folder that does not exist or is empty.
        to: the format to write.
        images: copy the images, make hard links to them, or leave them out.
        val_share: part of the training images that becomes ``val`` where there is none.
        seed: of the choice of these.
        follow_links: read files that a link leads to outside of the data folder.

    Raises:
        DataError: for what cannot be read.
        UsageError: where there is something at ``output``.
        WriteError: where that cannot be written.
    """
    parts = _read(find_splits(source), follow_links)
    if val_share:
        parts = _set_apart(parts, val_share, seed)
    for part in parts:
        _check(part, to, images, follow_links)
    folder = new_folder(output, "give another folder")
    writer, lost, taken = WRITERS[to], Counter[str](), set[str]()
    for part in parts:
        if not writer.ONE_FOLDER:
            taken.clear()
        names = _unique_names(part.table.file_names, taken)
        lost += writer.write(folder, part.name, part.table, names)
        if images != "none":
            _bring(part, folder / writer.image_folder(part.name), names, images)
    lost += writer.finish(folder, {part.name: part.table for part in parts})
    return Conversion(
        source=parts[0].files.format,
        images={part.name: len(part.table.image_ids) for part in parts},
        boxes={part.name: len(part.table.boxes) for part in parts},
        lost=lost,
    )


def _read(splits: dict[str, SplitFiles], follow_links: bool) -> list[_Part]:
    """All splits, which must have the same classes."""
    parts = []
    for name, files in splits.items():
        table = read_split(files, follow_links=follow_links)
        parts.append(_Part(name=name, files=files, table=table))
    first = dict(zip(parts[0].table.category_ids.tolist(), parts[0].table.category_names))
    for part in parts[1:]:
        here = dict(zip(part.table.category_ids.tolist(), part.table.category_names))
        if here != first:
            odd = sorted(set(here.items()) ^ set(first.items()))
            raise DataError(
                f"{part.table.name}: categories: expected those of {parts[0].table.name}, found "
                f"others: {listed(f'{i} ({name})' for i, name in odd)}"
            )
    return parts


def _set_apart(parts: list[_Part], share: float, seed: int) -> list[_Part]:
    """The parts with some of the training images as ``val``."""
    names = [part.name for part in parts]
    if "val" in names or "train" not in names:
        raise UsageError(f"--val-share sets training images apart; the data has {listed(names)}")
    train = parts[names.index("train")]
    count = len(train.table.image_ids)
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(seed).permutation(count)[: round(share * count)]] = True
    if chosen.all() or not chosen.any():
        raise UsageError(f"--val-share {share:g} of {count} images leaves a split without any")
    split = [
        _Part(name=name, files=train.files, table=_rows_of(train.table, np.flatnonzero(mask)))
        for name, mask in (("train", ~chosen), ("val", chosen))
    ]
    return [*split, *(part for part in parts if part is not train)]


def _rows_of(table: AnnotationTable, images: Ids) -> AnnotationTable:
    """The table with some of its images."""
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
    )


def _check(part: _Part, to: Target, images: ImageFiles, follow_links: bool) -> None:
    """Refuse names that leave the folder, files that are not there, and sizes that do not hold."""
    table, folder = part.table, part.files.images
    faults = Faults(table.name)
    names, ids = list(table.file_names), table.image_ids.tolist()
    if images == "none":
        for index, name in enumerate(names):
            if (reason := fault_of_name(name)) is not None:
                place = f"images[{index}].file_name"
                faults.add("file-name", place, EXPECTED, f"{reason}: {shown(name)}")
    else:
        within = part.files.within(folder, follow_links)
        check_image_files(names, ids, folder, faults, within=within)
    faults.raise_if_any()
    if to == "yolo" and images != "none" and part.files.format != "yolo":
        _check_sizes(part, names, faults)
        faults.raise_if_any("; YOLO has no sizes: boxes would lie elsewhere")


def _check_sizes(part: _Part, names: Sequence[str], faults: Faults) -> None:
    bar = tqdm(names, "image sizes", leave=False, unit="image", disable=None)
    for index, (name, size) in enumerate(zip(bar, part.table.sizes.tolist(), strict=True)):
        found = read_size(part.files.images / name)
        if found != tuple(size):
            faults.add(
                "image-size",
                f"images[{index}]",
                f"the size of the upright image, {found[1]} x {found[0]}",
                f"{size[1]} x {size[0]}",
                image_id=int(part.table.image_ids[index]),
            )


def _unique_names(names: Names, taken: set[str]) -> list[str]:
    """A file name of its own for each image, without folders; its stem too is its own.

    Args:
        names: paths within the image folder.
        taken: stems that are used already; grows.
    """
    unique = []
    for name in names:
        stem, suffix = os.path.splitext(name.rpartition("/")[2])  # noqa: PTH122
        if stem.lower() in taken:
            stem = os.path.splitext(name.replace("/", "_"))[0]  # noqa: PTH122
        number = 2
        while stem.lower() in taken:
            stem, number = f"{stem.removesuffix(f'_{number - 1}')}_{number}", number + 1
        taken.add(stem.lower())
        unique.append(stem + suffix)
    return unique


def _bring(part: _Part, folder: Path, names: Sequence[str], how: ImageFiles) -> None:
    """Copy or link the images of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [part.files.images / name for name in part.table.file_names]
    bar = tqdm(paths, f"images {part.name}", leave=False, unit="image", disable=None)
    for path, name in zip(bar, names, strict=True):
        try:
            if how == "link":
                os.link(path.resolve(), folder / name)
            else:
                shutil.copyfile(path, folder / name)
        except OSError as error:
            if how == "link":
                reason = error.strerror or str(error)
                raise UsageError(
                    f"{folder / name}: cannot be linked to {path}: {reason}; --images copy copies"
                ) from error
            raise write_error(folder / name, error) from error
