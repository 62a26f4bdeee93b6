# SPDX-License-Identifier: Apache-2.0
"""COCO JSON, written: ``annotations/instances_{split}.json`` and ``{split}/`` for the images."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from effdet.annotations import AnnotationTable
from effdet.annotations.rows import NO_ID
from effdet.data.formats.writing import SplitToWrite

ONE_FOLDER = False


def image_folder(split: str) -> str:
    """``{split}/``."""
    return split


def write(folder: Path, splits: Sequence[SplitToWrite]) -> Counter[str]:
    """Write the annotations of all splits; nothing is lost."""
    (folder / "annotations").mkdir()
    for split in splits:
        with (folder / "annotations" / f"instances_{split.name}.json").open("wb") as file:
            _write_json(file, split)
    return Counter()


def _write_json(file: BinaryIO, split: SplitToWrite) -> None:
    file.write(b'{"info": {"description": "written by effdet convert-data"},\n')
    for key, rows in (
        ("images", _images(split.table, split.file_names)),
        ("annotations", _annotations(split.table)),
        ("categories", _categories(split.table)),
    ):
        file.write(f' "{key}": ['.encode())
        for number, row in enumerate(rows):
            file.write((",\n  " if number else "\n  ").encode() + json.dumps(row).encode())
        file.write(b"\n ]" + (b"}\n" if key == "categories" else b",\n"))


def _images(table: AnnotationTable, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for image_id, (height, width), name in zip(
        table.image_ids.tolist(), table.sizes.tolist(), names, strict=True
    ):
        yield {"id": image_id, "file_name": name, "width": width, "height": height}


def _annotations(table: AnnotationTable) -> Iterator[dict[str, Any]]:
    ids = table.ids.copy()
    missing = ids == NO_ID
    ids[missing] = ids.max(initial=0) + 1 + np.arange(missing.sum())
    columns = (
        ids,
        table.image_ids[table.image_index],
        table.category_ids[table.category_index],
        table.boxes,
        table.areas,
        table.crowd,
    )
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    for values in zip(*(column.tolist() for column in columns)):
        row = dict(zip(keys, values))
        row["bbox"] = [_plain(value) for value in row["bbox"]]
        yield row | {"area": _plain(row["area"]), "iscrowd": int(row["iscrowd"])}


def _categories(table: AnnotationTable) -> Iterator[dict[str, Any]]:
    for category_id, name in zip(table.category_ids.tolist(), table.category_names, strict=True):
        yield {"id": category_id, "name": name}


def _plain(value: float) -> float:
    return int(value) if value.is_integer() else value
