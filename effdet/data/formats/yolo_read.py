# SPDX-License-Identifier: Apache-2.0
"""The annotations of a split in YOLO txt.

A line is ``class x y width height``: centre and size of a box in parts of the image's width and
height, from 0 to 1; or ``class x1 y1 x2 y2 x3 y3 ...``, a polygon, of which the box around is
taken. An image without a label file has no boxes.
"""

from typing import cast

import numpy as np

from effdet.annotations import AnnotationTable, Faults, FileLooker, links
from effdet.annotations.table import Floats, Ids
from effdet.data.formats.building import (
    Box,
    Reading,
    Rows,
    build_table,
    check_and_size,
    count_mended,
)
from effdet.data.formats.class_ids import ids_of
from effdet.data.formats.yolo import class_names, image_names, label_name, open_dataset
from effdet.errors import DataError, shown
from effdet.files.regular import read_regular

MAX_BYTES = 50_000_000
"""Size of a label file that is read."""

LEAST, MOST = -1.0, 2.0
"""Parts of an image's side; numbers beyond are no parts but pixels."""

EXPECTED = "a class and 4 numbers (x y width height), or a class and 3 or more points"


def read(reading: Reading) -> AnnotationTable | None:
    """The table of a split; None where there are faults, unless what is sound is to be salvaged."""
    files, faults = reading.files, reading.faults
    within = reading.within(files.images)
    dataset = open_dataset(files.annotations)
    names = class_names(dataset, faults)
    images, places = image_names(dataset, files.name, within, faults)
    ids = ids_of(names, reading.class_map, 0, lambda _: "names", faults)
    rows, mended = Rows(), Faults(faults.file)
    rows.sizes = [(0, 0)] * len(images)
    rows.files = images
    sizes = check_and_size(rows, reading, places.__getitem__)
    if reading.ends(images, names):
        return None
    labels = _Labels(reading, len(names), rows, mended)
    found = [labels.take(index, name) for index, name in enumerate(images)]
    if not any(found):
        expected = f"label files such as {label_name(images[0])}"
        faults.add("label-file", files.name, expected, f"not one for {len(images):,} images")
    if reading.ends():
        return None
    sized = np.all(sizes, axis=1)
    rows.keep_boxes(sized[np.array(rows.images, np.int64)].tolist())
    image_index, lines = np.array(rows.images, np.int64), np.array(rows.lines, np.int64)

    def where(row: int) -> str:
        return f"{label_name(images[image_index[row]])}:{lines[row]}"

    def written(row: int) -> str:
        return " ".join(f"{value:.10g}" for value in parts[row].tolist())

    parts = rows.box_array()
    boxes = _in_pixels(parts, sizes[image_index])
    return build_table(faults.file, rows, sizes, boxes, ids, names, where, written, mended)


class _Labels:
    """Reads label files into rows."""

    def __init__(self, reading: Reading, num_classes: int, rows: Rows, mended: Faults) -> None:
        self._root, self._num_classes = reading.files.images, num_classes
        self._look = FileLooker(self._root, reading.within(self._root))
        self._rows, self._faults, self._mended = rows, reading.faults, mended
        self._links: set[str] = set()

    def take(self, index: int, image: str) -> bool:
        """Read the label file of an image; whether there is one."""
        name = label_name(image)
        kind, reason = self._look.fault_of_file(name)
        if kind == "missing-file":
            return False
        if kind:
            if reason not in self._links:  # of a folder, that of all its files
                self._faults.add(kind, name, links.EXPECTED, reason)
            self._links.add(reason)
            return True
        try:
            text = read_regular(f"{self._root}/{name}", "label file", DataError, MAX_BYTES).decode()
        except UnicodeDecodeError as error:
            self._faults.add("encoding", name, "text in UTF-8", f"byte {error.start}")
            return True
        except DataError as error:
            self._faults.add("label-file", name, "a file that can be read", str(error))
            return True
        words = [line.split() for line in text.split("\n")]
        if not self._take_plain(index, words):
            for line, fields in enumerate(words, start=1):
                if fields:
                    self._take_line(index, name, line, fields)
        return True

    def _take_plain(self, index: int, words: list[list[str]]) -> bool:
        """Take a file in which every line is a box as it should be; False where one is not."""
        lines = [line for line, fields in enumerate(words, start=1) if fields]
        found = [fields for fields in words if fields]
        if any(len(fields) != 5 or not fields[0].isdecimal() for fields in found):
            return False
        try:
            labels = [int(fields[0]) for fields in found]
            boxes = [tuple(map(float, fields[1:])) for fields in found]
        except ValueError:
            return False
        if labels and max(labels) >= self._num_classes:
            return False
        if not all(LEAST <= value <= MOST for box in boxes for value in box):
            return False
        self._rows.add_boxes(index, labels, cast(list[Box], boxes), lines)
        return True

    def _take_line(self, index: int, name: str, line: int, fields: list[str]) -> None:
        try:
            label, values = int(fields[0]), list(map(float, fields[1:]))
        except ValueError:
            label, values = self._mend_line(name, line, fields)
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            self._faults.add("fields", f"{name}:{line}", EXPECTED, f"{len(fields)} fields")
        elif not 0 <= label < self._num_classes:
            expected = f"a class from 0 to {self._num_classes - 1}, as named in data.yaml"
            self._faults.add("class-index", f"{name}:{line}", expected, fields[0][:40])
        elif not all(LEAST <= value <= MOST for value in values):
            wrong = next(v for v in values if not LEAST <= v <= MOST)
            expected = "parts of the image's width and height, from 0 to 1"
            self._faults.add("number", f"{name}:{line}", expected, f"{wrong:g}")
        else:
            if len(values) > 4:
                found = f"{len(values) // 2} points"
                count_mended(self._mended, "polygon", f"{name}:{line}", "a box", found)
            self._rows.add_boxes(index, [label], [_box(values)], [line])

    def _mend_line(self, name: str, line: int, fields: list[str]) -> tuple[int, list[float]]:
        """The line again, where a class may be written ``3.0``; what is no number is a fault."""
        values = []
        for field in fields:
            try:
                values.append(float(field))
            except ValueError:
                self._faults.add("number", f"{name}:{line}", "numbers", shown(field))
                return 0, [0.0, 0.0, 0.0, 0.0]
        if not values[0].is_integer():
            return -1, values[1:]
        place = f"{name}:{line}"
        count_mended(self._mended, "whole-float", place, "a class index", fields[0][:40])
        return int(values[0]), values[1:]


def _box(values: list[float]) -> Box:
    """Centre and size; of a polygon those of the box around it."""
    if len(values) == 4:
        return values[0], values[1], values[2], values[3]
    left, right = min(values[::2]), max(values[::2])
    top, bottom = min(values[1::2]), max(values[1::2])
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _in_pixels(
    boxes: Floats,
    sizes: Ids,
) -> Floats:
    """``[M, 4]`` x, y, width, height from centre and size in parts of (height, width)."""
    corner = boxes[:, :2] - boxes[:, 2:] / 2
    return np.concatenate([corner, boxes[:, 2:]], axis=1) * np.tile(sizes[:, ::-1], 2)
