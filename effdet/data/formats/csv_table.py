# SPDX-License-Identifier: Apache-2.0
"""Where the CSV files of a data set are, and how their columns are called.

``train.csv``, ``val.csv`` and ``test.csv`` (also ``train_labels.csv``), ``train/_annotations.csv``
beside the images, or one file with a column ``split``. A box a line: an image, four corners in
pixels and a class.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path

from effdet.data.formats.split import FOLDERS, SplitFiles, our_word, split_folders
from effdet.errors import DataError
from effdet.files.regular import open_regular

LOOKED_FOR = "train.csv with the columns filename, xmin, ymin, xmax, ymax, class"
BESIDE = "_annotations.csv"

COLUMNS = {
    "image": ("filename", "file_name", "image", "image_path", "image_name", "path", "img_path"),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
    "class": ("class", "label", "class_name", "category", "name"),
    "width": ("width", "image_width"),
    "height": ("height", "image_height"),
    "split": ("split", "set", "subset"),
}
"""Our names of the columns, and the words for them in a file's first line."""

NEEDED = ("image", "xmin", "ymin", "xmax", "ymax", "class")
_SNIFFED = 20_000  # bytes


@dataclass(frozen=True)
class Header:
    """Which field of a line is what.

    Attributes:
        columns: our name -> position.
        lines: lines that the header takes, 0 or 1.
        number: fields of a line.
        twice: columns that are there more than once, by any of their words: our name -> positions.
    """

    columns: dict[str, int]
    lines: int
    number: int
    twice: dict[str, list[int]] = field(default_factory=dict)


def header_of(fields: list[str]) -> Header | None:
    """What a file's first line says of its columns; None where it has no boxes."""
    words = [field.strip().lower().replace(" ", "_") for field in fields]
    places = {
        ours: [k for k, word in enumerate(words) if word in known]
        for ours, known in COLUMNS.items()
    }
    if all(places[name] for name in NEEDED):
        columns = {ours: found[0] for ours, found in places.items() if found}
        twice = {ours: found for ours, found in places.items() if len(found) > 1}
        return Header(columns, 1, len(fields), twice)
    corners = [field.strip() for field in fields[1:5]]
    if len(fields) == 6 and (all(map(_is_number, corners)) or not any((*corners, fields[5]))):
        return Header({name: k for k, name in enumerate(NEEDED)}, 0, 6)
    return None


def sign(folder: Path) -> Path | None:
    """A file that shows that the folder is of this format."""
    return next(iter(_files(folder).values()), None)


def find(folder: Path) -> dict[str, SplitFiles]:
    """All splits by our words for them."""
    files = _files(folder)
    return {
        name: SplitFiles(
            format="csv",
            name=name,
            annotations=file,
            images=image_folder(folder, name, file),
            root=folder,
            siblings=tuple(sorted({*files.values()} - {file})),
        )
        for name, file in files.items()
    }


def image_folder(folder: Path, split: str, file: Path) -> Path:
    """The folder in which the first image that a CSV file names is.

    Args:
        folder: the data folder.
        split: of which images may have a folder.
        file: the CSV file.
    """
    first = _first_image(file)
    words = FOLDERS.get(split, (split,))
    names = ["", "images", *words, *(f"images/{word}" for word in words)]
    if first is not None and not Path(first).is_absolute():
        for root in (file.parent, folder):
            for name in names:
                if (root / name / first).is_file():
                    return root / name
    return file.parent


def _files(folder: Path) -> dict[str, Path]:
    """The CSV file of each split."""
    beside = {ours: path / BESIDE for ours, path in split_folders(folder).items()}
    found = {ours: path for ours, path in beside.items() if _first_line(path) is not None}
    boxed = [path for path in sorted(folder.glob("*.csv")) if _first_line(path) is not None]
    for path in boxed:
        word = our_word(path.stem.split("_")[0])
        if word in FOLDERS:
            found.setdefault(word, path)
    if not found and len(boxed) == 1:
        return dict.fromkeys(_splits_in(boxed[0]), boxed[0])
    if not found and boxed:
        return {path.stem: path for path in boxed}
    return {name: found[name] for name in FOLDERS if name in found}


def _splits_in(path: Path) -> list[str]:
    """The values of the column ``split``; ``train`` where there is none."""
    header = _first_line(path)
    if header is None or "split" not in header.columns:
        return ["train"]
    column, found = header.columns["split"], dict.fromkeys(FOLDERS, False)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            for fields in csv.reader(file):
                if len(fields) > column and (word := our_word(fields[column].strip())) in found:
                    found[word] = True
        except csv.Error:
            pass  # told when it is read
    return [name for name, is_there in found.items() if is_there] or ["train"]


def _first_line(path: Path) -> Header | None:
    fields = _sniff(path)
    return header_of(fields[0]) if fields else None


def _first_image(path: Path) -> str | None:
    lines = _sniff(path)
    header = header_of(lines[0]) if lines else None
    if header is None or len(lines) <= header.lines:
        return None
    fields, column = lines[header.lines], header.columns["image"]
    return fields[column].strip().removeprefix("./") if len(fields) > column else None


def _sniff(path: Path) -> list[list[str]]:
    """The fields of the first two lines."""
    try:
        with open_regular(path, "CSV file", DataError) as file:
            text = file.read(_SNIFFED).decode("utf-8-sig", "replace")
        lines = [line for line in text.splitlines()[:20] if line.strip()][:2]
        return [fields for fields in csv.reader(lines) if fields]
    except (DataError, csv.Error):
        return []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
