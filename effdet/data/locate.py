# SPDX-License-Identifier: Apache-2.0
"""Where the files of a data set are, of any format."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from effdet.data.formats import SplitFiles, coco, csv_table, voc, yolo
from effdet.data.formats.split import TITLES, Format, contents, listed, our_word
from effdet.data.shapes import resolve_data
from effdet.errors import DataError, UsageError, printable

__all__ = ["SplitFiles", "find_splits", "locate_split"]


class Finder(Protocol):
    """What knows where the files of a format are: a module of ``effdet.data.formats``."""

    LOOKED_FOR: str

    def sign(self, folder: Path) -> Path | None:
        """A file that shows that the folder is of this format."""

    def find(self, folder: Path) -> dict[str, SplitFiles]:
        """All splits by our words for them."""


FORMATS: dict[Format, Finder] = {"coco": coco, "voc": voc, "yolo": yolo, "csv": csv_table}


def find_splits(data: str | Path) -> dict[str, SplitFiles]:
    """All splits of a data folder, by our words for them; the format shows in what is there.

    VOC's ``trainval`` is left out where there are both, and found by its name alone.

    Args:
        data: the folder, the ``data.yaml`` of a YOLO data set, or the name of the built-in set.

    Raises:
        DataError: where nothing is found, saying what was looked for, or two formats are.
    """
    if _is_data_file(data):
        found = yolo.find_in(Path(data))
    else:
        folder = resolve_data(data)
        found = FORMATS[find_format(folder)].find(folder)
    if "train" in found and "val" in found:
        found.pop("trainval", None)  # which joins them
    if not found:
        raise DataError(f"{printable(str(data))}: names no split; expected one of train, val, test")
    return found


def locate_split(
    data: str | Path | None,
    split: str,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> SplitFiles:
    """One split of a data folder, or of explicit paths.

    The built-in set is drawn only where something of it is needed.

    Args:
        data: as for :func:`find_splits`; not looked at where both paths are given.
        split: such as ``train`` or ``val``.
        annotations: explicit annotation file.
        images: explicit image folder.

    Raises:
        DataError: where something is missing or ambiguous: what was looked for, what is there.
    """
    if data is None and (annotations is None or images is None):
        raise DataError("a data folder is needed, or both an annotation file and an image folder")
    if annotations is None:
        assert data is not None
        found = _split_of(data, split)
    else:
        found = _explicit(data, split, Path(annotations), None if images is None else Path(images))
    if images is not None:
        if found.format == "yolo":
            raise UsageError(
                f"{found.annotations}: names the folders of its images itself; leave the image "
                "folder out"
            )
        found = replace(found, images=Path(images))
    if not found.images.is_dir():
        raise DataError(f"{found.images}: no such image folder")
    return found


def find_format(folder: Path) -> Format:
    """The format of a data folder.

    Raises:
        DataError: where nothing is found, saying what was looked for, or two formats are.
    """
    signs = _signs(folder)
    if not signs:
        wanted = "; ".join(f"{TITLES[name]}: {FORMATS[name].LOOKED_FOR}" for name in FORMATS)
        raise DataError(
            f"{printable(str(folder))}: no annotations found (looked for {wanted}); "
            f"{contents(folder)}{_deeper(folder)}"
        )
    if len(signs) > 1:
        both = " and ".join(
            f"{TITLES[name]} ({printable(str(path.relative_to(folder)))})"
            for name, path in signs.items()
        )
        raise DataError(
            f"{printable(str(folder))}: expected annotations of one format, found {both}; move "
            "those that are not to be used elsewhere, or name the annotation files themselves"
        )
    return next(iter(signs))


def _signs(folder: Path) -> dict[Format, Path]:
    """What shows that a folder is of a format, by format."""
    return {name: path for name in FORMATS if (path := FORMATS[name].sign(folder)) is not None}


def _deeper(folder: Path) -> str:
    """The end of an error message: a folder below that holds a data set, as archives have them."""
    for pattern in ("*", "*/*"):
        for path in sorted(folder.glob(pattern))[:MOST_LOOKED_AT]:
            if path.is_dir() and _signs(path):
                return f"; did you mean {printable(str(path))}?"
    return ""


MOST_LOOKED_AT = 20
"""Folders below one without a data set in which one is looked for."""


def _split_of(data: str | Path, split: str) -> SplitFiles:
    if not split:
        raise DataError("the split's name is empty; give one such as train or val")
    if _is_data_file(data):
        splits = yolo.find_in(Path(data))
    else:
        folder = resolve_data(data)
        kind = find_format(folder)
        if kind == "coco":
            try:
                return coco.find_split(folder, split)
            except DataError as error:
                if our_word(split) != "val" or list(coco.find(folder)) != ["train"]:
                    raise
                raise DataError(f"{error}{ADVICE}") from error
        splits = FORMATS[kind].find(folder)
    if (ours := our_word(split)) in splits:
        return splits[ours]
    titles = {TITLES[files.format] for files in splits.values()}
    there = (
        f"the data set ({', '.join(titles)}) has {listed(splits)}" if splits else "there is none"
    )
    text = f"{printable(str(data))}: no split {printable(split)!r}; {there}"
    raise DataError(text + (ADVICE if list(splits) == ["train"] else ""))


ADVICE = "; effdet convert-data DATA OUTPUT --to coco --val-share 0.2 sets images apart"


def _is_data_file(data: str | Path) -> bool:
    return Path(data).suffix.lower() in (".yaml", ".yml") and Path(data).is_file()


def _explicit(
    data: str | Path | None, split: str, annotations: Path, images: Path | None
) -> SplitFiles:
    if not annotations.is_file():
        raise DataError(f"{annotations}: no such annotation file")
    is_csv = annotations.suffix.lower() == ".csv"
    if images is None:
        assert data is not None
        folder = resolve_data(data)
        find = csv_table.image_folder if is_csv else coco.find_images
        images = find(folder, split, annotations)
    name = our_word(split)
    kind: Format = "csv" if is_csv else "coco"
    return SplitFiles(format=kind, name=name, annotations=annotations, images=images)
