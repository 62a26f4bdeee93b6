# SPDX-License-Identifier: Apache-2.0
"""Strict reading of COCO annotation files into arrays.

Whatever cannot be right is refused with the file, the place in it, the value, and how many such
places there are. The checks run over whole columns: COCO train has 860,000 annotations.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from effdet.errors import DataError
from effdet.structures import ClassMap

Rows = list[dict[str, Any]]


def read_json(file: Path) -> dict[str, Rows]:
    """The lists ``images``, ``annotations`` and ``categories`` of an annotation file."""
    try:
        content = json.loads(file.read_bytes(), object_hook=_without_masks)
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such annotation file") from error
    except OSError as error:
        raise DataError(f"{file}: cannot read the annotation file: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{file}: not a JSON file: {error}") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict):
        raise DataError(
            f"{file}: expected an object with {', '.join(keys)}; found a "
            f"{type(content).__name__}{' (a results file?)' if isinstance(content, list) else ''}"
        )
    for key in keys:
        if not isinstance(content.get(key), list):
            found = f"found {_short(content[key])}" if key in content else "it is missing"
            raise DataError(f"{file}: {key} must be a list, {found}")
    for key in ("images", "categories"):
        if not content[key]:
            raise DataError(f"{file}: {key} is empty")
    return {key: content[key] for key in keys}


def _without_masks(values: dict[str, Any]) -> dict[str, Any]:
    """Let go of masks while reading: they are most of a COCO file, and nothing needs them."""
    values.pop("segmentation", None)
    return values


def read_classes(file: Path, rows: Rows) -> ClassMap:
    """The classes of ``categories``, in rising order of their ids."""
    ids = _integers(file, "categories", rows, "id")
    _refuse_duplicates(file, "categories", ids)
    _strings(file, "categories", rows, "name")
    return ClassMap.from_categories(rows)


HUGE = 10**9
"""Pixels; no image is that large."""


def read_images(
    file: Path, rows: Rows
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bytes_]]:
    """Ids ``[N]``, sizes ``[N, 2]`` as (height, width), and file names ``[N]`` of the images."""
    ids = _integers(file, "images", rows, "id")
    _refuse_duplicates(file, "images", ids)
    sides = [_integers(file, "images", rows, key) for key in ("height", "width")]
    sizes = np.stack(sides, axis=1)
    bad = np.flatnonzero((sizes < 1).any(axis=1))
    places = [f"images[{i}] is {sizes[i, 1]} x {sizes[i, 0]} (width x height)" for i in bad]
    if places:
        refuse(file, "width and height must be at least 1 pixel", places)
    names = _strings(file, "images", rows, "file_name")
    odd = [i for i, name in enumerate(names) if "\0" in name or _has_surrogate(name)]
    if odd:
        _refuse_values(file, "file_name must be a valid name", "images", "file_name", names, odd)
    return ids, sizes, np.array([name.encode() for name in names], dtype=np.bytes_)


def _has_surrogate(name: str) -> bool:
    """Whether ``name`` holds half of a surrogate pair, which cannot be encoded."""
    return any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)


def read_crowd(file: Path, rows: Rows) -> NDArray[np.bool_]:
    """``[M]``, which annotations are crowd regions; without ``iscrowd`` none is."""
    values = _column(file, "annotations", rows, "iscrowd", default=0)
    bad = [i for i, value in enumerate(values) if value not in (0, 1)]
    if bad:
        _refuse_values(file, "iscrowd must be 0 or 1", "annotations", "iscrowd", values, bad)
    return np.array(values, dtype=np.bool_)


def read_boxes(file: Path, rows: Rows) -> NDArray[np.float64]:
    """``[M, 4]`` x, y, width, height in pixels."""
    values = _column(file, "annotations", rows, "bbox")
    try:
        boxes = np.array(values) if values else np.zeros((0, 4))
        sound = boxes.dtype.kind in "iuf" and boxes.shape[1:] == (4,)
    except ValueError:  # lists of different lengths
        sound = False
    bad = [] if sound else [i for i, value in enumerate(values) if not _is_box(value)]
    if bad:
        what = "bbox must be a list of 4 numbers: x, y, width, height"
        _refuse_values(file, what, "annotations", "bbox", values, bad)
    # An integer may be too large even for a float, and sums of huge sides would overflow.
    if boxes.dtype.kind == "O":
        bad = [i for i, value in enumerate(values) if not all(abs(v) < HUGE for v in value)]
    else:
        bad = np.flatnonzero(~(np.abs(boxes) < HUGE).all(axis=1)).tolist()
    if bad:
        what = f"bbox must be finite and below {HUGE:,} pixels"
        _refuse_values(file, what, "annotations", "bbox", values, bad)
    return boxes.astype(np.float64)


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(side, int | float) and not isinstance(side, bool) for side in value)
    )


def find_ids(
    file: Path, rows: Rows, key: str, known: NDArray[np.int64], section: str
) -> NDArray[np.int64]:
    """Position in ``known`` of the id that each annotation has under ``key``."""
    ids = _integers(file, "annotations", rows, key)
    order = np.argsort(known)
    position = np.searchsorted(known[order], ids).clip(max=len(known) - 1)
    found: NDArray[np.int64] = order[position]
    bad = np.flatnonzero(known[found] != ids).tolist()
    if bad:
        what = f"{key} is not among the ids of {section} ({some(known.tolist())})"
        _refuse_values(file, what, "annotations", key, ids.tolist(), bad)
    return found


def _column(file: Path, section: str, rows: Rows, key: str, default: Any = None) -> list[Any]:
    """The values under ``key``; one that is missing is an error unless there is a default."""
    not_objects = [i for i, row in enumerate(rows) if type(row) is not dict]
    if not_objects:
        places = [f"{section}[{i}] = {_short(rows[i])}" for i in not_objects]
        refuse(file, f"{section} must be a list of objects", places)
    if default is None:
        missing = [f"{section}[{i}]" for i, row in enumerate(rows) if key not in row]
        if missing:
            refuse(file, f"{key} is missing", missing)
    return [row.get(key, default) for row in rows]


def _integers(file: Path, section: str, rows: Rows, key: str) -> NDArray[np.int64]:
    values = _column(file, section, rows, key)
    bad = [i for i, value in enumerate(values) if type(value) is not int or abs(value) >> 62]
    if bad:
        _refuse_values(file, f"{key} must be an integer", section, key, values, bad)
    return np.array(values, dtype=np.int64)


def _strings(file: Path, section: str, rows: Rows, key: str) -> list[str]:
    values = _column(file, section, rows, key)
    bad = [i for i, value in enumerate(values) if not isinstance(value, str) or not value]
    if bad:
        _refuse_values(file, f"{key} must be a text", section, key, values, bad)
    return values


def _refuse_duplicates(file: Path, section: str, ids: NDArray[np.int64]) -> None:
    _, first = np.unique(ids, return_index=True)
    again = np.setdiff1d(np.arange(len(ids)), first).tolist()
    if again:
        _refuse_values(file, "id was used before", section, "id", ids.tolist(), again)


def _refuse_values(
    file: Path, what: str, section: str, key: str, values: list[Any], bad: list[int]
) -> NoReturn:
    refuse(file, what, [f"{section}[{i}].{key} = {_short(values[i])}" for i in bad])


def refuse(file: Path, what: str, places: Sequence[str]) -> NoReturn:
    """Raise with the first places and their total."""
    more = f" and {len(places) - 3} more ({len(places)} in all)" if len(places) > 3 else ""
    raise DataError(f"{file}: {what}: {', '.join(places[:3])}{more}")


def some(values: Iterable[Any]) -> str:
    """The first eight of ``values`` for an error message, and their number if there are more."""
    values = list(values)
    return ", ".join(map(str, values[:8])) + (f", ... {len(values)} in all" * (len(values) > 8))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
