# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, counted: by kind, by class and by image."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from effdet.evaluation.matching import Fate, Kind, Matching


@dataclass(frozen=True, kw_only=True)
class ErrorCounts:
    """Detections and boxes by what became of them.

    Attributes:
        detections: how many are of each kind; ignored ones are not among them.
        boxes: how many met each fate.
    """

    detections: dict[Kind, int]
    boxes: dict[Fate, int]


@dataclass(frozen=True, kw_only=True)
class ImageErrors:
    """The errors in one image.

    Attributes:
        image_id: the data set's id.
        boxes: that are to be found in it.
        missed: those of them that no detection is correct for.
        false: detections that are not correct.
    """

    image_id: int
    boxes: int
    missed: int
    false: int

    @property
    def total(self) -> int:
        """All errors."""
        return self.missed + self.false


def count_errors(matching: Matching, category_id: int | None = None) -> ErrorCounts:
    """The counts of all classes, or of one: detections as it, and boxes of it."""
    kinds, fates = matching.kinds, matching.fates
    if category_id is not None:
        kinds = kinds[matching.found.category_ids == category_id]
        fates = fates[matching.truth.category_ids == category_id]
    counted = [kind for kind in Kind if kind is not Kind.IGNORED]
    return ErrorCounts(
        detections={kind: int((kinds == kind).sum()) for kind in counted},
        boxes={fate: int((fates == fate).sum()) for fate in Fate},
    )


def worst_images(matching: Matching, count: int) -> list[ImageErrors]:
    """Up to ``count`` images with most errors, missed and false boxes together; none without."""
    truth, found = matching.truth, matching.found
    wrong = (matching.kinds != Kind.CORRECT) & (matching.kinds != Kind.IGNORED)
    boxes = _count(truth.image_ids)
    missed = _count(truth.image_ids[matching.fates != Fate.FOUND])
    false = _count(found.image_ids[wrong])
    images = [
        ImageErrors(image_id=i, boxes=boxes[i], missed=missed[i], false=false[i])
        for i in sorted(missed.keys() | false.keys())
    ]
    return sorted(images, key=lambda image: -image.total)[:count]


def spread_images(matching: Matching, image_ids: Iterable[int], count: int) -> list[int]:
    """Up to ``count`` of ``image_ids``, evenly taken from those with boxes, for a fair look."""
    with_boxes = np.intersect1d(np.fromiter(image_ids, np.int64), matching.truth.image_ids)
    places = np.linspace(0, len(with_boxes) - 1, min(count, len(with_boxes))).round()
    return [int(with_boxes[int(place)]) for place in places]


def _count(image_ids: Iterable[int]) -> Counter[int]:
    return Counter(int(image_id) for image_id in image_ids)
