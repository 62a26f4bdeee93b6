# SPDX-License-Identifier: Apache-2.0
"""A data set of any format written in another one, and what that format cannot hold."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from effdet.annotations import AnnotationTable, Faults, Names, check_image_files, check_names
from effdet.bars import Bar
from effdet.counts import counted
from effdet.data.formats import SplitFiles, read_split, write_coco, write_voc, write_yolo
from effdet.data.formats.header_sizes import read_sizes
from effdet.data.formats.split import FOLDERS, TITLES, listed, training_split, validation_split
from effdet.data.formats.writing import SplitToWrite, Writer
from effdet.data.image_file import IMAGE_SUFFIXES
from effdet.data.locate import find_splits
from effdet.data.set_apart import draw_apart, rows_of
from effdet.errors import DataError, UsageError
from effdet.files import write_error
from effdet.files.whole_folder import whole_folder
from effdet.settings.convert_data import ImageFiles, WrittenFormat

WRITERS: dict[WrittenFormat, Writer] = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


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
class _Split:
    """A split as it was read."""

    name: str
    files: SplitFiles
    table: AnnotationTable

    def paths(self) -> list[Path]:
        """The files of its images."""
        return [self.files.images / name for name in self.table.file_names]


def convert_data(
    source: str | Path,
    output: str | Path,
    to: WrittenFormat,
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
        val_share: part of the training images that becomes ``val`` where there is none; copies of
            an image stay together.
        seed: of the choice of these.
        follow_links: read files that a link leads to outside of the data folder.

    Raises:
        DataError: for what cannot be read.
        UsageError: where there is something at ``output``.
        WriteError: where that cannot be written; nothing is left then.
    """
    splits = _read(find_splits(source), follow_links)
    if val_share:
        splits = _set_apart(splits, val_share, seed)
    if to != "coco":
        splits = _known(splits, to)
    for split in splits:
        _check(split, to, images, follow_links)
        if to == "yolo":
            _check_suffixes(split)
    with whole_folder(output, "give another folder") as folder:
        lost = _write(folder, splits, to, images)
    return Conversion(
        source=splits[0].files.format,
        images={split.name: len(split.table.image_ids) for split in splits},
        boxes={split.name: len(split.table.boxes) for split in splits},
        lost=lost,
    )


def _write(
    folder: Path, splits: list[_Split], to: WrittenFormat, images: ImageFiles
) -> Counter[str]:
    """Write annotations and images; what is lost of them."""
    writer = WRITERS[to]
    parts = _named(splits, writer.ONE_FOLDER)
    try:
        lost = writer.write(folder, parts)
    except OSError as error:
        raise write_error(Path(error.filename or folder), error) from error
    for split, part in zip(splits, parts, strict=True):
        if images != "none":
            _bring(split, folder / writer.image_folder(part.name), part.file_names, images)
    return lost


def _read(found: dict[str, SplitFiles], follow_links: bool) -> list[_Split]:
    """All splits, which must have the same classes."""
    splits = []
    for name, files in found.items():
        table = read_split(files, follow_links=follow_links)
        splits.append(_Split(name=name, files=files, table=table))
    first = dict(zip(splits[0].table.category_ids.tolist(), splits[0].table.category_names))
    for split in splits[1:]:
        here = dict(zip(split.table.category_ids.tolist(), split.table.category_names))
        if here != first:
            odd = sorted(set(here.items()) ^ set(first.items()))
            raise DataError(
                f"{split.table.name}: categories: expected those of {splits[0].table.name}, found "
                f"others: {listed(f'{i} ({name})' for i, name in odd)}"
            )
    return splits


def _set_apart(splits: list[_Split], share: float, seed: int) -> list[_Split]:
    """The splits with some of the training images as ``val``."""
    names = [split.name for split in splits]
    name = training_split(names)
    if validation_split(names) is not None or name is None:
        raise UsageError(f"--val-share sets training images apart; the data has {listed(names)}")
    train = splits[names.index(name)]
    chosen = draw_apart(train.paths(), share, seed)
    if chosen.all() or not chosen.any():
        raise UsageError(
            f"--val-share {share:g} of {len(chosen)} images leaves a split without any (copies of "
            "an image stay together); give a share nearer to 0.5, or add images"
        )
    apart = [
        replace(train, name=name, table=rows_of(train.table, np.flatnonzero(mask)))
        for name, mask in (("train", ~chosen), ("val", chosen))
    ]
    return [*apart, *(split for split in splits if split is not train)]


def _known(splits: list[_Split], to: WrittenFormat) -> list[_Split]:
    """The splits with names that readers of the format know: the training split is ``train``."""
    train = training_split(split.name for split in splits)
    names = ["train" if split.name == train else split.name for split in splits]
    odd = [name for name in names if name not in FOLDERS]
    if odd:
        raise UsageError(
            f"splits {listed(odd)}: {TITLES[to]} has {', '.join(FOLDERS)} alone; rename the "
            "annotation files, or give --to coco"
        )
    return [replace(split, name=name) for split, name in zip(splits, names, strict=True)]


def _check(split: _Split, to: WrittenFormat, images: ImageFiles, follow_links: bool) -> None:
    """Refuse names that leave the folder, files that are not there, and sizes that do not hold."""
    table, folder = split.table, split.files.images
    faults = Faults(table.name)
    names, ids = list(table.file_names), table.image_ids.tolist()
    if images == "none":
        check_names(names, ids, faults)
    else:
        within = split.files.within(folder, follow_links)
        check_image_files(names, ids, folder, faults, within=within)
    faults.raise_if_any()
    if to == "yolo" and images != "none" and split.files.format != "yolo":
        _check_sizes(split, names, faults)
        faults.raise_if_any("; YOLO has no sizes: boxes would lie elsewhere")


def _check_suffixes(split: _Split) -> None:
    """Refuse images that YOLO's readers would not find: they look for the usual endings."""
    odd = [name for name in split.table.file_names if not name.lower().endswith(IMAGE_SUFFIXES)]
    if odd:
        raise DataError(
            f"{split.table.name}: {counted(len(odd), 'image')} without a usual ending, by which "
            f"YOLO finds images: {listed(odd)}; give them one of {', '.join(IMAGE_SUFFIXES)}"
        )


def _check_sizes(split: _Split, names: Sequence[str], faults: Faults) -> None:
    read = read_sizes([f"{split.files.images}/{name}" for name in names])
    for index, (found, size) in enumerate(zip(read, split.table.sizes.tolist(), strict=True)):
        if isinstance(found, str):
            raise DataError(found)
        if found != tuple(size):
            faults.add(
                "image-size",
                f"images[{index}]",
                f"the size of the upright image, {found[1]} x {found[0]}",
                f"{size[1]} x {size[0]}",
                image_id=int(split.table.image_ids[index]),
            )


def _named(splits: Sequence[_Split], one_folder: bool) -> list[SplitToWrite]:
    """What is to be written, with new names of the images."""
    parts, taken = [], set[str]()
    for split in splits:
        if not one_folder:
            taken.clear()
        names = _unique_names(split.table.file_names, taken)
        parts.append(SplitToWrite(name=split.name, table=split.table, file_names=names))
    return parts


def _unique_names(names: Names, taken: set[str]) -> list[str]:
    """A file name of its own for each image, without folders; its stem too is its own.

    Args:
        names: paths within the image folder.
        taken: stems that are used already; grows.
    """
    unique = []
    for name in names:
        stem, suffix = os.path.splitext(name.rpartition("/")[2])  # noqa: PTH122 - of many
        if stem.lower() in taken:
            stem = name.replace("/", "_").removesuffix(suffix)
        number = 2
        while stem.lower() in taken:
            stem, number = f"{stem.removesuffix(f'_{number - 1}')}_{number}", number + 1
        taken.add(stem.lower())
        unique.append(stem + suffix)
    return unique


def _bring(split: _Split, folder: Path, names: Sequence[str], how: ImageFiles) -> None:
    """Copy or link the images of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    bar = Bar(split.paths(), f"images {split.name}", leave=False, unit="image", disable=None)
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
