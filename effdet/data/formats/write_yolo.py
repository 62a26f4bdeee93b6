# SPDX-License-Identifier: Apache-2.0
"""YOLO txt, written: ``data.yaml``, ``images/{split}/`` and ``labels/{split}/``.

Boxes are cut to their images, since readers refuse an image with a number above 1.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from effdet.annotations import AnnotationTable, fit_boxes
from effdet.data.formats.losses import lost_areas, lost_category_ids, lost_ids
from effdet.errors import DataError, shown
from effdet.files import replace_text
from effdet.yaml_file import dump_yaml

ONE_FOLDER = False
"""Whether the images of all splits lie in one folder."""

DIGITS = 12
"""Of a number: an error below a millionth of a pixel in an image of a million pixels a side."""


def image_folder(split: str) -> str:
    """Where a split's images go, relative to the data folder."""
    return f"images/{split}"


def write(folder: Path, split: str, table: AnnotationTable, names: Sequence[str]) -> Counter[str]:
    """Write the labels of a split.

    Args:
        folder: the data folder.
        split: its name.
        table: the annotations.
        names: ``[N]`` file names of the images in their folder.

    Returns:
        What cannot be held, by words.

    Raises:
        DataError: for two classes of one name, which readers refuse.
    """
    for name, count in Counter(table.category_names).items():
        if count > 1:
            ids = [
                i for i, n in zip(table.category_ids.tolist(), table.category_names) if n == name
            ]
            raise DataError(
                f"{table.name}: {count} classes have the name {shown(name)} "
                f"(ids {', '.join(map(str, ids))}); join them or name them apart: data.yaml tells "
                "classes by their names"
            )
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
    for name, found in zip(names, lines, strict=True):
        path = folder / "labels" / split / Path(name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    order = np.array(sorted(range(len(names)), key=lambda index: names[index].split("/")))
    lost = lost_ids(table, order) + lost_areas(table)
    lost["crowd regions, left out"] = int((table.crowd & fitted.keep).sum())
    lost["boxes without area or outside their images, left out"] = int((~fitted.keep).sum())
    lost["boxes cut to their images"] = fitted.count("box-clipped")
    return lost


def finish(folder: Path, tables: Mapping[str, AnnotationTable]) -> Counter[str]:
    """Write ``data.yaml``, with the classes in rising order of their ids; what of these is lost."""
    table = next(iter(tables.values()))
    names = [table.category_names[k] for k in np.argsort(table.category_ids)]
    content = {split: image_folder(split) for split in tables}
    replace_text(folder / "data.yaml", dump_yaml(content | {"nc": len(names), "names": names}))
    return lost_category_ids(table, np.argsort(np.argsort(table.category_ids)))
