# SPDX-License-Identifier: Apache-2.0
"""Where COCO JSON files and their images are.

Two layouts: ``annotations/instances_{split}*.json``, with images in the folder named like the rest
of that file's name (``instances_train2017.json``: ``train2017/``), in ``{split}/`` or in
``images/``; and ``{split}/_annotations.coco.json`` beside the images.
"""

import glob
from pathlib import Path

from effdet.data.formats.split import (
    FOLDERS,
    SplitFiles,
    contents,
    listed,
    our_word,
    split_folders,
)
from effdet.errors import DataError, printable

BESIDE = "_annotations.coco.json"
PREFIX = "instances_"
LOOKED_FOR = f"annotations/{PREFIX}*.json or train/{BESIDE}"


def sign(folder: Path) -> Path | None:
    """A file that shows that the folder is of this format."""
    return next(iter(_files(folder)), None) or next(iter(_beside(folder).values()), None)


def find(folder: Path) -> dict[str, SplitFiles]:
    """All splits by name.

    Two files of one split, such as those of two years, are called by their own names. A split
    whose images are missing is left out where another one is there.

    Raises:
        DataError: where the images of all are missing.
    """
    stems = [path.stem.removeprefix(PREFIX) for path in _files(folder)]
    names = {}
    for stem in stems:
        ours = next((word for word in FOLDERS if stem.startswith(word)), stem)
        fit = [other for other in stems if other.startswith(ours)]
        names[ours if fit == [stem] or stem == ours else stem] = stem
    splits = {}
    for name, stem in names.items():
        try:
            splits[name] = find_split(folder, stem, name)
        except DataError as error:
            missing = error
    if names and not splits:
        raise missing
    for ours in _beside(folder):
        splits.setdefault(ours, find_split(folder, ours))
    return splits


def find_split(folder: Path, split: str, name: str | None = None) -> SplitFiles:
    """One split, by the beginning of its name: ``train`` finds ``instances_train2017.json``.

    Args:
        folder: the data folder.
        split: the name, or its beginning.
        name: our word for it.

    Raises:
        DataError: where something is missing or ambiguous: what was looked for, what is there.
    """
    file = find_annotations(folder, split)
    images = file.parent if file.name == BESIDE else find_images(folder, split, file)
    return SplitFiles(
        format="coco",
        name=name or our_word(split),
        annotations=file,
        images=images,
        root=folder,
    )


def find_annotations(folder: Path, split: str) -> Path:
    """The annotation file of a split.

    Raises:
        DataError: where there is none, or more than one.
    """
    wanted = folder / "annotations" / f"{PREFIX}{glob.escape(split)}*.json"
    exact = folder / "annotations" / f"{PREFIX}{split}.json"
    found = sorted(wanted.parent.glob(wanted.name))
    if exact in found:
        return exact
    if len(found) > 1:
        names = listed(path.name for path in found)
        raise DataError(f"{wanted}: several files fit ({names}); name the split in full")
    if found:
        return found[0]
    beside = _beside(folder)
    if (ours := our_word(split)) in beside:
        return beside[ours]
    if beside:
        there = ", ".join(f"{path.parent.name}/{BESIDE}" for path in beside.values())
        raise DataError(f"{printable(str(folder))}: no split {printable(split)!r}; found {there}")
    raise DataError(f"{wanted}: no such annotation file; {contents(wanted.parent)}")


def find_images(folder: Path, split: str, annotations: Path) -> Path:
    """The image folder of a split.

    Raises:
        DataError: where none is there.
    """
    names = [annotations.stem.removeprefix(PREFIX), split, "images"]
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    wanted = ", ".join(f"{name}/" for name in dict.fromkeys(names))
    raise DataError(f"{folder}: no image folder ({wanted}); {contents(folder)}")


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "annotations").glob(f"{PREFIX}*.json"))


def _beside(folder: Path) -> dict[str, Path]:
    files = {ours: path / BESIDE for ours, path in split_folders(folder).items()}
    return {ours: path for ours, path in files.items() if path.is_file()}
