# SPDX-License-Identifier: Apache-2.0
"""What a format cannot hold of a table, in counts."""

from collections import Counter

import numpy as np

from effdet.annotations import AnnotationTable, scorable
from effdet.annotations.table import Ids

AREA_TOLERANCE = 1e-6
"""Relative; areas that differ less are those of the box."""


def order_by_image(table: AnnotationTable) -> Ids:
    """``[M]`` the annotations image by image, each image's in the file's order."""
    return np.argsort(table.image_index, kind="stable")


def lost_ids(table: AnnotationTable, image_order: Ids) -> Counter[str]:
    """Ids that will be others when they are read from a format without ids.

    Args:
        table: what is written.
        image_order: ``[N]`` positions of the images in the order in which they will be read.
    """
    rank = np.argsort(image_order)
    order = np.argsort(rank[table.image_index], kind="stable")
    numbers = np.arange(1, len(order) + 1)
    return Counter(
        {
            "image ids": int((table.image_ids[image_order] != np.arange(1, len(rank) + 1)).sum()),
            "annotation ids": int((table.ids[order] != numbers).sum()),
        }
    )


def lost_category_ids(table: AnnotationTable, category_ids: Ids) -> Counter[str]:
    """The same of categories, of which the ids will be ``category_ids``, ``[K]``."""
    ids = table.category_ids
    gaps = int(ids.max() - ids.min()) + 1 - len(ids)
    return Counter(
        {"category ids": int((ids != category_ids).sum()), "gaps between category ids": gaps}
    )


def lost_areas(table: AnnotationTable) -> Counter[str]:
    """Areas that are not those of their boxes, such as those of masks."""
    boxes, kept = table.boxes[:, 2] * table.boxes[:, 3], scorable(table)
    differ = np.abs(table.areas - boxes) > AREA_TOLERANCE * np.maximum(1, np.abs(boxes))
    return Counter({"areas other than width x height": int((differ & kept).sum())})
