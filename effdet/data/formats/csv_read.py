# SPDX-License-Identifier: Apache-2.0
"""The annotations of a split in CSV: corners in pixels from 0, the right and lower ones outside."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from effdet.annotations import AnnotationTable, Faults, fault_of_name
from effdet.annotations.image_files import EXPECTED
from effdet.annotations.rows import HUGE
from effdet.data.formats.building import (
    CORNERS,
    Reading,
    Rows,
    build_table,
    check_and_size,
    corners_written,
)
from effdet.data.formats.class_ids import ids_of, is_name, names_for
from effdet.data.formats.csv_table import COLUMNS, NEEDED, Header, header_of
from effdet.data.formats.split import FOLDERS, SplitFiles, our_word
from effdet.data.formats.text_fields import number, side
from effdet.errors import DataError, shown
from effdet.files.regular import open_regular

MAX_BYTES = 1 << 30
"""Size of a CSV file that is read."""


def read(reading: Reading) -> AnnotationTable | None:
    """The table of a split; None where there are faults, unless what is sound is to be salvaged."""
    files, faults = reading.files, reading.faults
    reader = _Reader(files, faults)
    for line, fields in _lines(files.annotations, faults):
        reader.take(line, fields)
    rows, places = reader.rows, reader.image_places
    if not rows.files and not len(faults):
        faults.add("section", files.name, "at least one image of this split", "none")
    elsewhere = {name for path in files.siblings for name in _classes_of(path)}
    names = names_for(rows.classes, elsewhere | reader.other_classes, reading.class_map)
    if not names and not len(faults):
        faults.add("section", files.name, "at least one box", "none: no class is known")
    ids = ids_of(names, reading.class_map, 1, reader.first_places.__getitem__, faults)
    sizes = check_and_size(rows, reading, places.__getitem__)
    boxes = rows.box_array()
    if len(boxes) and boxes.max() <= 1:
        found = "none above 1: parts of the image?"
        faults.add("number", f"line {rows.lines[0]}", "corners in pixels", found)
    if reading.ends(rows.files, names):
        return None
    rows.sort_classes(names)
    written = corners_written(boxes.copy())
    boxes[:, 2:] -= boxes[:, :2]
    lines = np.array(rows.lines, np.int64)

    def where(row: int) -> str:
        return f"line {lines[row]}"

    return build_table(faults.file, rows, sizes, boxes, ids, tuple(names), where, written)


class _Reader:
    """Collects the boxes of a file's lines."""

    def __init__(self, files: SplitFiles, faults: Faults) -> None:
        self.rows = Rows()
        self.image_places: list[str] = []
        self.first_places: dict[str, str] = {}
        self.other_classes: set[str] = set()
        self._files, self._faults = files, faults
        self._header: Header | None = None
        self._index: dict[str, int] = {}

    def take(self, line: int, fields: list[str]) -> None:
        """Take a line; its faults are collected."""
        if self._header is None:
            self._header = self._take_first(line, fields)
            if self._header.lines:
                return
        if not self._header.number:
            return
        if len(fields) != self._header.number:
            expected = f"{self._header.number} fields, as in the first line"
            self._faults.add("fields", f"line {line}", expected, str(len(fields)))
            return
        values = {name: fields[k].strip() for name, k in self._header.columns.items()}
        if self._is_here(line, values.get("split")):
            self._take(line, values)
        elif is_name(values["class"]):
            self.other_classes.add(values["class"])

    def _is_here(self, line: int, split: str | None) -> bool:
        """Whether a line of this ``split`` is to be read; one that no split reads is a fault."""
        if split is None or (word := our_word(split)) == self._files.name:
            return True
        if word not in FOLDERS:
            expected = "train, val or test"
            self._faults.add(
                "fields", f"line {line} split", expected, shown(split) if split else "nothing"
            )
        return False

    def _take_first(self, line: int, fields: list[str]) -> Header:
        """What the first line says; without columns where it has faults."""
        header = header_of(fields)
        if header is None:
            wanted = ", ".join("/".join(COLUMNS[name]) for name in NEEDED)
            expected = f"a header with {wanted}, or 6 fields without one"
            self._faults.add("fields", f"line {line}", expected, shown(",".join(fields)))
            return Header({}, 1, 0)
        for name, positions in header.twice.items():
            found = " and ".join(f"{shown(fields[k].strip())} as field {k + 1}" for k in positions)
            expected = f"one column for {name}"
            self._faults.add("fields", f"line {line}", expected, found)
        return Header({}, 1, 0) if header.twice else header

    def _take(self, line: int, values: dict[str, str]) -> None:
        place, faults = f"line {line}", self._faults
        image = self._image(place, values)
        corners = [values[name] for name in CORNERS]
        if image is None or not any((*corners, values["class"])):
            return
        numbers = [number(text) for text in corners]
        before = len(faults)
        for name, text, value in zip(CORNERS, corners, numbers):
            if value is None:
                expected = f"a finite number of pixels below {HUGE:,}"
                faults.add("box", f"{place} {name}", expected, shown(text or "nothing"))
        if not is_name(values["class"]):
            found = shown(values["class"] or "nothing")
            faults.add("category-name", f"{place} class", "a name", found)
        if len(faults) > before:
            return
        label = self.rows.label_of(values["class"])
        self.first_places.setdefault(values["class"], f"{place} class")
        x1, y1, x2, y2 = (value or 0.0 for value in numbers)
        self.rows.add_boxes(image, [label], [(x1, y1, x2, y2)], [line])

    def _image(self, place: str, values: dict[str, str]) -> int | None:
        """Position of the line's image, a new one if need be."""
        text = values["image"]
        if text in self._index:
            return self._index[text]
        name = _relative(text, self._files.images)
        if not name or (reason := fault_of_name(name)) is not None:
            found = f"{reason}: {shown(text)}" if name else "nothing"
            self._faults.add("file-name", f"{place} image", EXPECTED, found)
            return None
        keys = ("height", "width")
        sides = [side(values.get(key), f"{place} {key}", self._faults) for key in keys]
        self._index[text] = len(self.rows.files)
        self.rows.files.append(name)
        self.rows.sizes.append((sides[0], sides[1]))
        self.image_places.append(f"{place} image")
        return self._index[text]


def _relative(text: str, folder: Path) -> str:
    """A name as it is, or relative to the image folder where it is a path into it."""
    if text.startswith("/"):
        root = folder.absolute().as_posix().rstrip("/") + "/"
        return text.removeprefix(root)
    return text.removeprefix("./")


def _lines(path: Path, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is not empty, and its number from 1."""
    with open_regular(path, "CSV file", DataError, MAX_BYTES) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, strict=True)
        try:
            for fields in reader:
                if not _is_utf8(fields):
                    faults.add(
                        "encoding", f"line {reader.line_num}", "text in UTF-8", "other bytes"
                    )
                elif any(fields):
                    yield reader.line_num, fields
        except csv.Error as error:
            faults.add(
                "fields", f"line {reader.line_num}", "fields separated by commas", str(error)
            )
        finally:
            text.detach()


def _is_utf8(fields: list[str]) -> bool:
    """Whether no byte had to be escaped."""
    joined = "".join(fields)
    return joined.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in joined)


def _classes_of(path: Path) -> set[str]:
    """The classes of another split; what is wrong with it is told where that is read."""
    names: set[str] = set()
    header: Header | None = None
    ignored = Faults(str(path))
    try:
        for _, fields in _lines(path, ignored):
            if header is None:
                header = header_of(fields)
                if header is None:
                    return names
                if header.lines:
                    continue
            _add_class(names, fields, header.columns["class"])
    except DataError:
        pass
    return names


def _add_class(names: set[str], fields: Sequence[str], column: int) -> None:
    if len(fields) > column and is_name(name := fields[column].strip()):
        names.add(name)
