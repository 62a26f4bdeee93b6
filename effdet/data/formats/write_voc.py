# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC XML, written: ``Annotations/``, ``JPEGImages/`` and lists in ``ImageSets/Main/``.

Corners are pixels from 1 that belong to the box, as the devkit has them, with all digits.
"""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from effdet.annotations import AnnotationTable
from effdet.data.formats.building import CORNERS
from effdet.data.formats.lost import (
    lost_areas,
    lost_category_ids,
    lost_ids,
    order_by_image,
)
from effdet.data.formats.voc import LISTS
from effdet.data.formats.voc_xml import ORIGIN
from effdet.data.formats.writing import SplitToWrite, check_class_names

ONE_FOLDER = True


def image_folder(split: str) -> str:
    """``JPEGImages/``, of all splits."""
    return "JPEGImages"


def write(folder: Path, splits: Sequence[SplitToWrite]) -> Counter[str]:
    """Write XML files and lists; refuses classes that no XML file can name."""
    lost = _lost_classes([split.table for split in splits])
    (folder / "Annotations").mkdir()
    (folder / LISTS).mkdir(parents=True)
    for split in splits:
        _write_files(folder / "Annotations", split)
        stems = "".join(f"{Path(name).stem}\n" for name in split.file_names)
        (folder / LISTS / f"{split.name}.txt").write_text(stems, encoding="utf-8")
        lost += lost_ids(split.table, np.arange(len(split.file_names))) + lost_areas(split.table)
    return lost


def _write_files(folder: Path, split: SplitToWrite) -> None:
    table, names = split.table, split.file_names
    check_class_names(table, "XML")
    order = order_by_image(table)
    ends = np.searchsorted(table.image_index[order], np.arange(len(names) + 1))
    for index, name in enumerate(names):
        rows = order[ends[index] : ends[index + 1]].tolist()
        text = _xml(table, index, name, rows)
        (folder / f"{Path(name).stem}.xml").write_text(text, encoding="utf-8")


def _lost_classes(tables: Sequence[AnnotationTable]) -> Counter[str]:
    """What of the classes, which all splits share, no file says."""
    table = tables[0]
    used = {
        found.category_names[k]
        for found in tables
        for k in np.unique(found.category_index).tolist()
    }
    position = {name: k for k, name in enumerate(sorted(used), start=1)}
    ids = np.array([position.get(name, -1) for name in table.category_names], np.int64)
    lost = lost_category_ids(table, ids)
    lost["classes without a box"] = len({*table.category_names} - used)
    lost["classes of the same name as another"] = len(ids) - len({*table.category_names})
    return lost


def _xml(table: AnnotationTable, index: int, name: str, rows: list[int]) -> str:
    height, width = table.sizes[index].tolist()
    objects = "".join(_object(table, row) for row in rows)
    return (
        "<annotation>\n"
        f"  <folder>JPEGImages</folder>\n  <filename>{escape(name)}</filename>\n"
        f"  <{ORIGIN}>1-based</{ORIGIN}>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"  <segmented>0</segmented>\n{objects}</annotation>\n"
    )


def _object(table: AnnotationTable, row: int) -> str:
    x, y, width, height = (Decimal(repr(side)) for side in table.boxes[row].tolist())
    corners = (x + 1, y + 1, x + width, y + height)
    box = "".join(f"<{key}>{_plain(side)}</{key}>" for key, side in zip(CORNERS, corners))
    name = escape(table.category_names[int(table.category_index[row])])
    difficult = int(table.crowd[row])
    return (
        f"  <object>\n    <name>{name}</name>\n    <difficult>{difficult}</difficult>\n"
        f"    <bndbox>{box}</bndbox>\n  </object>\n"
    )


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"
