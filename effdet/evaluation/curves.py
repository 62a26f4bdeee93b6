# SPDX-License-Identifier: Apache-2.0
"""Precision over recall, and AP by class and size, from COCOeval's own numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.coco import run_cocoeval
from effdet.evaluation.files import GroundTruth, Results
from effdet.evaluation.matching import Kind, Matching
from effdet.settings import Evaluator

RECALLS = tuple(number / 100 for number in range(101))
"""The recall levels that COCOeval samples precision at."""

_AT50, _AT75, _TOP100 = 0, 5, 2
_SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True, kw_only=True)
class ClassCurve:
    """One category's precision and AP, 0-1.

    Attributes:
        category_id: the data set's id.
        name: its name.
        boxes: that are to be found.
        precision: at IoU 0.50, at each of :data:`RECALLS`, the best at this recall or a higher
            one, as COCO's AP50 averages it; None where there is no box to find.
        ap: AP over IoU 0.50 to 0.95 of ``all``, ``small``, ``medium`` and ``large`` boxes; None
            where there is no such box.
        ap50: AP at IoU 0.50, the mean of ``precision``.
        ap75: AP at IoU 0.75.
    """

    category_id: int
    name: str
    boxes: int
    precision: tuple[float, ...] | None
    ap: dict[str, float | None]
    ap50: float | None
    ap75: float | None


@dataclass(frozen=True, kw_only=True)
class BestF1:
    """The score threshold at which the F1 of a class, or of all together, is highest.

    Attributes:
        threshold: detections scored at least so count.
        f1: 0-1.
        precision: at this threshold.
        recall: likewise.
    """

    threshold: float
    f1: float
    precision: float
    recall: float


def class_curves(
    ground_truth: GroundTruth, results: Results, backend: Evaluator = "faster"
) -> tuple[ClassCurve, ...]:
    """Curves and AP of each category, in rising order of category id.

    Raises:
        EffdetError: where the library of ``backend`` is not installed.
    """
    precision, _ = run_cocoeval(ground_truth, results, backend)
    precision = precision[..., _TOP100]  # [10, 101, K, 4]
    counts = dict.fromkeys(ground_truth.categories, 0)
    for row in ground_truth.annotations:
        counts[row["category_id"]] += not row["iscrowd"]
    return tuple(
        _class_curve(category_id, name, counts[category_id], precision[:, :, index])
        for index, (category_id, name) in enumerate(ground_truth.categories.items())
    )


def _class_curve(
    category_id: int, name: str, boxes: int, precision: NDArray[np.float64]
) -> ClassCurve:
    """Of ``precision`` ``[10, 101, 4]``, -1 where there is no box."""
    curve = precision[_AT50, :, 0]
    return ClassCurve(
        category_id=category_id,
        name=name,
        boxes=boxes,
        precision=tuple(curve.tolist()) if (curve > -1).all() else None,
        ap={size: _mean(precision[..., place]) for place, size in enumerate(_SIZES)},
        ap50=_mean(curve),
        ap75=_mean(precision[_AT75, :, 0]),
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if len(known) else None


def best_f1(matching: Matching, category_id: int | None = None) -> BestF1 | None:
    """The best threshold for a category, or one for all together.

    Args:
        matching: of all detections, whatever their scores.
        category_id: None for all.

    Returns:
        None where there is no box or nothing correct.
    """
    of_class = np.full(len(matching.found), True)
    boxes = len(matching.truth)
    if category_id is not None:
        of_class = matching.found.category_ids == category_id
        boxes = int((matching.truth.category_ids == category_id).sum())
    of_class &= matching.kinds != Kind.IGNORED
    scores, correct = matching.found.scores[of_class], matching.kinds[of_class] == Kind.CORRECT
    if not correct.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(correct[order])
    # Detections of one score come together: a threshold cannot part them.
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))
    hits, taken = hits[last], last + 1
    f1 = 2 * hits / (taken + boxes)
    best = int(f1.argmax())
    return BestF1(
        threshold=float(scores[last[best]]),
        f1=float(f1[best]),
        precision=float(hits[best] / taken[best]),
        recall=float(hits[best] / boxes),
    )


def confusion_matrix(matching: Matching, category_ids: Sequence[int]) -> NDArray[np.int64]:
    """How often a box of each class was found as each class.

    Args:
        matching: at a score threshold.
        category_ids: the ``K`` categories, in the wanted order.

    Returns:
        ``[K + 1, K + 1]``: rows are the boxes' classes, columns those of the detections; the last
        row counts detections of no box, the last column boxes that have no detection. Ignored
        detections do not count. The sum of each row but the last is the number of boxes.
    """
    index_of = {category_id: index for index, category_id in enumerate(category_ids)}
    background = len(category_ids)
    matrix = np.zeros((background + 1, background + 1), np.int64)
    truth, found, partner = matching.truth, matching.found, matching.partner
    rows = np.array([index_of[i] for i in truth.category_ids.tolist()], np.int64)
    columns = np.array([index_of[i] for i in found.category_ids.tolist()], np.int64)
    paired = partner >= 0
    np.add.at(matrix, (rows[partner[paired]], columns[paired]), 1)
    lonely = np.setdiff1d(np.arange(len(truth)), partner[paired])
    matrix[:background, background] = np.bincount(rows[lonely], minlength=background)
    false = ~paired & (matching.kinds != Kind.IGNORED)
    matrix[background, :background] = np.bincount(columns[false], minlength=background)
    return matrix
