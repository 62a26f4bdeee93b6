# SPDX-License-Identifier: Apache-2.0
"""YOLO txt, written: ``data.yaml``, ``images/{split}/`` and ``labels/{split}/``.

Boxes are cut to their images, since readers refuse an image with a number above 1.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effdet.annotations import AnnotationTable, fit_boxes
from effdet.data.formats.lost import lost_areas, lost_category_ids, lost_ids
from effdet.data.formats.writing import SplitToWrite, check_class_names
from effdet.errors import DataError, shown
from effdet.files.yaml_file import dump_yaml

ONE_FOLDER = False

DIGITS = 12
"""Of a number: an error below a millionth of a pixel in an image of a million pixels a side."""


def image_folder(split: str) -> str:
    """``images/{split}/``."""
    return f"images/{split}"


def write(folder: Path, splits: Sequence[SplitToWrite]) -> Counter[str]:
    """Write label files and ``data.yaml``, with the classes in rising order of their ids.

    Refuses two classes of one name, and names that would not be read again.
    """
    table, lost = splits[0].table, Counter[str]()
    check_class_names(table, "data.yaml")
    _check_names(table)
    for split in splits:
        lost += _write_labels(folder / "labels" / split.name, split)
    names = [table.category_names[k] for k in np.argsort(table.category_ids)]
    content = {split.name: image_folder(split.name) for split in splits}
    text = dump_yaml(content | {"nc": len(names), "names": names})
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return lost + lost_category_ids(table, np.argsort(np.argsort(table.category_ids)))


def _check_names(table: AnnotationTable) -> None:
    ids_of = defaultdict(list)
    for category_id, name in zip(table.category_ids.tolist(), table.category_names, strict=True):
        ids_of[name].append(category_id)
    for name, ids in ids_of.items():
        if len(ids) > 1:
            raise DataError(
                f"{table.name}: {len(ids)} classes have the name {shown(name)} (ids "
                f"{', '.join(map(str, ids))}); join them or name them apart: data.yaml has a name "
                "for each class"
            )


def _write_labels(folder: Path, split: SplitToWrite) -> Counter[str]:
    """Write the label files of a split; what of it is lost."""
    table, names = split.table, split.file_names
    fitted = fit_boxes(table)
    kept = np.flatnonzero(fitted.keep & ~table.crowd)
    index_of = np.argsort(np.argsort(table.category_ids))  # classes in rising order of the ids
    sides = np.tile(table.sizes[table.image_index[kept]][:, ::-1], 2)  # [M, 4] width, height, ...
    x1, y1, x2, y2 = (fitted.boxes[kept] / sides).T
    values = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
    labels = index_of[table.category_index[kept]]
    lines: list[list[str]] = [[] for _ in names]
    for image, label, row in zip(
        table.image_index[kept].tolist(), labels.tolist(), values.tolist()
    ):
        lines[image].append(" ".join([str(label), *(f"{value:.{DIGITS}g}" for value in row)]))
    folder.mkdir(parents=True)
    for name, found in zip(names, lines, strict=True):
        text = "".join(f"{line}\n" for line in found)
        (folder / Path(name).with_suffix(".txt")).write_text(text, encoding="utf-8")
    order = np.array(sorted(range(len(names)), key=lambda index: names[index].split("/")))
    lost = lost_ids(table, order) + lost_areas(table)
    lost["crowd regions, left out"] = int((table.crowd & fitted.keep).sum())
    lost["boxes without area or outside their images, left out"] = int((~fitted.keep).sum())
    lost["boxes cut to their images"] = fitted.count("box-clipped")
    return lost
