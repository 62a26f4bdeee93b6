# SPDX-License-Identifier: Apache-2.0
"""Where the files of a data set in COCO's layout are."""

import glob
from pathlib import Path

from effdet.data.shapes import resolve_data
from effdet.errors import DataError


def locate(
    data_dir: str | Path | None,
    split: str,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split.

    Without explicit paths: ``annotations/instances_{split}*.json``, and images in the folder named
    like the rest of that file's name (``instances_train2017.json``: ``train2017/``), in
    ``{split}/`` or in ``images/``.

    Args:
        data_dir: the data folder; may be None where both paths are given.
        split: such as ``train`` or ``val``.
        annotations: explicit annotation file.
        images: explicit image folder.

    Raises:
        DataError: where something is missing or ambiguous: what was looked for, what is there.
    """
    if data_dir is None and (annotations is None or images is None):
        raise DataError("a data folder is needed, or both an annotation file and an image folder")
    folder = Path(data_dir) if data_dir is not None else Path()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such data folder")
    file = Path(annotations) if annotations is not None else _find_annotations(folder, split)
    if not file.is_file():
        raise DataError(f"{file}: no such annotation file")
    image_dir = Path(images) if images is not None else _find_images(folder, split, file)
    if not image_dir.is_dir():
        raise DataError(f"{image_dir}: no such image folder")
    return file, image_dir


def locate_split(
    data: str | Path, split: str, annotations: str | None, images: str | None
) -> tuple[Path, Path]:
    """:func:`locate` for a program's ``--data``, which may name the built-in set.

    That set is drawn only where something of it is needed.
    """
    explicit = annotations is not None and images is not None
    return locate(None if explicit else resolve_data(data), split, annotations, images)


def _find_annotations(folder: Path, split: str) -> Path:
    if not split:
        raise DataError("the split's name is empty; give one such as train or val")
    wanted = folder / "annotations" / f"instances_{glob.escape(split)}*.json"
    exact = folder / "annotations" / f"instances_{split}.json"
    found = sorted(wanted.parent.glob(wanted.name))
    if exact in found:
        return exact
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{wanted}: several files fit ({names}); name the split in full")
    if not found:
        raise DataError(f"{wanted}: no such annotation file; {_contents(wanted.parent)}")
    return found[0]


def _find_images(folder: Path, split: str, annotations: Path) -> Path:
    names = [annotations.stem.removeprefix("instances_"), split, "images"]
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    wanted = ", ".join(f"{name}/" for name in dict.fromkeys(names))
    raise DataError(f"{folder}: no image folder ({wanted}); {_contents(folder)}")


def _contents(folder: Path) -> str:
    """What is in ``folder``, for the end of an error message."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"the folder holds {shown or 'nothing'}"
