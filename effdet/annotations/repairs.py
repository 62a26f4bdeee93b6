# SPDX-License-Identifier: Apache-2.0
"""What is mended in an annotation file, counted, and with ``--strict-data`` refused."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effdet.annotations.faults import STRICT_ADVICE, Fault, Faults
from effdet.annotations.rows import NO_ID
from effdet.annotations.table import AnnotationTable, Floats

CLIP_TOLERANCE = 0.01
"""Pixels. COCO rounds boxes to two decimals, so a smaller overhang is no mistake to be counted."""

Mask = NDArray[np.bool_]

_EXPECTED = {
    "no-id": "an id",
    "no-area": "an area",
    "no-iscrowd": "0 or 1",
    "box-without-area": "a width and a height above 0",
    "box-outside": "a box that meets its image",
    "box-clipped": "a box within its image",
}
_KEYS = {"no-id": "id", "no-area": "area", "no-iscrowd": "iscrowd"}


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedBoxes:
    """Boxes as they are trained on.

    Attributes:
        boxes: ``[M, 4]`` xyxy in pixels, inside of their images.
        keep: ``[M]``, which of them have an area left.
        repaired: ``[M]`` masks by the kind of fault.
    """

    boxes: Floats
    keep: Mask
    repaired: dict[str, Mask]

    def count(self, kind: str) -> int:
        """How many boxes were repaired so."""
        return int(self.repaired[kind].sum())


def fit_boxes(table: AnnotationTable) -> FittedBoxes:
    """Cut boxes to their images; those without area or wholly outside are not kept."""
    xywh, sizes = table.boxes, table.sizes[table.image_index]
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    inside = boxes.clip(0, np.tile(sizes[:, ::-1], 2))
    has_area = np.all(xywh[:, 2:] > 0, axis=1)
    # In single precision, as they are kept: a sliver may have no area there.
    rounded = inside.astype(np.float32)
    keep = has_area & np.all(rounded[:, 2:] > rounded[:, :2], axis=1)
    moved = (np.abs(inside - boxes) > CLIP_TOLERANCE).any(axis=1)
    repaired = {
        "box-without-area": ~has_area,
        "box-outside": has_area & ~keep,
        "box-clipped": keep & moved,
    }
    return FittedBoxes(boxes=inside, keep=keep, repaired=repaired)


def scorable(table: AnnotationTable) -> Mask:
    """``[M]``, which boxes COCO's figures are defined for: those without a negative size.

    One of size 0 stays, as in pycocotools: it counts and cannot be found.
    """
    mask: Mask = np.all(table.boxes[:, 2:] >= 0, axis=1)
    return mask


def refuse_repairs(table: AnnotationTable, boxes: dict[str, Mask]) -> None:
    """Raise where anything was repaired.

    Args:
        table: the file.
        boxes: ``[M]`` masks of the boxes that were repaired, by the kind of fault.

    Raises:
        AnnotationError: with the places and their number.
    """
    faults = Faults(table.name)
    faults.extend(table.mended)
    rows = table.filled | {kind: np.flatnonzero(mask) for kind, mask in boxes.items()}
    for kind, found in rows.items():

        def describe(row: int, kind: str = kind) -> Fault:
            return _describe(table, kind, row)

        faults.add_rows(found, describe)
    faults.raise_if_any(STRICT_ADVICE)


def _describe(table: AnnotationTable, kind: str, row: int) -> Fault:
    image = int(table.image_index[row])
    height, width = table.sizes[image].tolist()
    box = ", ".join(f"{side:g}" for side in table.boxes[row])
    found = f"[{box}]" + (f" in {width} x {height}" if width else "")
    return Fault(
        kind=kind,
        place=table.place(row, _KEYS.get(kind, "bbox")),
        expected=_EXPECTED[kind],
        found="nothing" if kind in _KEYS else found,
        row_id=None if table.ids[row] == NO_ID else int(table.ids[row]),
        image_id=int(table.image_ids[image]),
        image_name=table.file_names[image] or None,
    )
