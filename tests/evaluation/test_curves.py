# SPDX-License-Identifier: Apache-2.0
"""Curves, the confusion matrix and the best threshold, on numbers worked by hand."""

import numpy as np
import pytest

from effdet.evaluation import RECALLS, best_f1, class_curves, confusion_matrix, match
from effdet.evaluation.coco import evaluate_results
from effdet.evaluation.matching import Kind
from tests.evaluation.scene import CAT, DOG, random_scene, results, truth

A, B, C = (0.0, 0.0, 40.0, 40.0), (60.0, 0.0, 40.0, 40.0), (120.0, 0.0, 40.0, 40.0)


def test_the_precision_of_two_boxes_and_a_false_one() -> None:
    # By score: right, wrong, right. Precision is 1 up to recall 1/2, then 2/3.
    found = results((0, CAT, *A, 0.9), (0, CAT, *C, 0.8), (0, CAT, *B, 0.7))
    cat, dog = class_curves(truth((0, CAT, *A), (0, CAT, *B)), found)
    assert cat.precision is not None
    assert [cat.precision[int(100 * r)] for r in (0.0, 0.5, 0.51, 1.0)] == pytest.approx(
        [1, 1, 2 / 3, 2 / 3]
    )
    assert cat.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert (cat.boxes, dog.boxes) == (2, 0)
    assert dog.precision is None
    assert dog.ap == {"all": None, "small": None, "medium": None, "large": None}
    assert dog.ap50 is dog.ap75 is None


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_curves_average_to_the_figures_of_the_evaluation(backend: str) -> None:
    ground_truth, found = random_scene(3, images=40)
    curves = class_curves(ground_truth, found, backend)  # type: ignore[arg-type]
    metrics = evaluate_results(ground_truth, found)
    assert len(RECALLS) == 101
    for curve, row in zip(curves, metrics.per_class, strict=True):
        assert (curve.category_id, curve.name, curve.boxes) == (
            row.category_id,
            row.name,
            row.boxes,
        )
        assert curve.ap["all"] == pytest.approx(row.ap)
        assert curve.ap50 == pytest.approx(row.ap50)
        assert curve.precision is not None
        assert np.mean(curve.precision) == pytest.approx(row.ap50)
    for size, name in (("small", "APs"), ("medium", "APm"), ("large", "APl")):
        values = [c.ap[size] for c in curves if c.ap[size] is not None]
        assert np.mean(values) == pytest.approx(metrics.figures[name])  # type: ignore[arg-type]


def test_the_best_threshold_of_three_detections() -> None:
    # Thresholds 0.9, 0.8, 0.7: F1 is 2/(1+2), 2/(2+2), 4/(3+2).
    found = results((0, CAT, *A, 0.9), (0, CAT, *C, 0.8), (0, CAT, *B, 0.7))
    best = best_f1(match(truth((0, CAT, *A), (0, CAT, *B)), found), CAT)
    assert best is not None
    assert best.threshold == 0.7
    assert best.f1 == pytest.approx(0.8)
    assert (best.precision, best.recall) == (pytest.approx(2 / 3), 1.0)


def test_detections_of_one_score_cannot_be_parted() -> None:
    found = results((0, CAT, *A, 0.9), (0, CAT, *B, 0.5), (0, CAT, *C, 0.5), (1, CAT, *C, 0.5))
    best = best_f1(match(truth((0, CAT, *A), (0, CAT, *B)), found))
    assert best is not None
    assert (best.threshold, best.f1) == (0.9, pytest.approx(2 / 3))  # with 0.5: 4 / (4 + 2)


def test_a_class_that_is_never_right_has_no_best_threshold() -> None:
    matching = match(truth((0, CAT, *A)), results((0, DOG, *A, 0.9)))
    assert best_f1(matching) is None
    assert best_f1(matching, DOG) is None
    assert best_f1(match(truth(), results())) is None


def test_a_confusion_matrix_of_every_case() -> None:
    boxes = truth((0, CAT, *A), (0, CAT, *B), (0, DOG, *C), (1, DOG, *A))
    found = results(
        (0, CAT, *A, 0.9),  # right
        (0, DOG, *B, 0.9),  # a cat found as a dog
        (1, DOG, *C, 0.9),  # nothing there
        (2, CAT, *A, 0.9),  # nor here
    )
    matrix = confusion_matrix(match(boxes, found), [CAT, DOG])
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 2], [1, 1, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_rows_sum_to_the_boxes_and_columns_to_the_detections(seed: int) -> None:
    ground_truth, found = random_scene(seed)
    matching = match(ground_truth, found, score_threshold=0.3)
    matrix = confusion_matrix(matching, [CAT, DOG])
    counted = matching.kinds != Kind.IGNORED
    for index, category_id in enumerate((CAT, DOG)):
        assert matrix[index].sum() == (matching.truth.category_ids == category_id).sum()
        of_class = matching.found.category_ids == category_id
        assert matrix[:, index].sum() == (of_class & counted).sum()
    correct = (matching.kinds == Kind.CORRECT).sum()
    assert np.trace(matrix[:2, :2]) == correct > 0
