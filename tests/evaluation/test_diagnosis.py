# SPDX-License-Identifier: Apache-2.0
from functools import partial
from typing import Any

import pytest

from effdet.evaluation.diagnosis import diagnose, finds_nothing
from effdet.evaluation.files import GroundTruth, Results
from effdet.structures import ClassMap
from tests.evaluation import scene
from tests.evaluation.scene import results

CATEGORIES = [{"id": i, "name": name} for i, name in ((3, "cat"), (7, "dog"), (90, "owl"))]
CLASS_MAP = ClassMap.from_categories(CATEGORIES)
IDS = (3, 7, 90)


truth = partial(scene.truth, images=6, categories=CATEGORIES)

# In each image, a wide box at the top right, of one of the classes in turn.
SCENE = [(i, IDS[i % 3], 200.0, 20.0, 80.0, 30.0) for i in range(6)]


def found(score: float = 0.9, **change: Any) -> Results:
    """The scene as detections; ``change``: ``shift`` of the class index, ``box``, ``label``."""
    box = change.get("box", lambda x, y, w, h: (x, y, w, h))
    rows = []
    for image, category, *xywh in SCENE:
        index = (IDS.index(int(category)) + change.get("shift", 0)) % 3
        label = change.get("label", IDS[index])
        rows.append((image, label, *box(*xywh), score))
    return results(*rows)


def cause(detections: Results, ground: GroundTruth | None = None, left_out: int = 0) -> str:
    text = diagnose(detections, ground or truth(*SCENE), CLASS_MAP, left_out)
    return text.splitlines()[-1].removeprefix("likely cause: ")


def test_the_figures_are_those_counted_by_hand() -> None:
    ground = truth(
        (0, 3, 0, 0, 10, 10), (0, 7, 20, 0, 10, 10), (2, 7, 0, 0, 10, 10), (2, 3, 0, 0, 9, 9, 1)
    )
    detections = results(
        (0, 3, 0, 0, 10, 5, 0.6),  # IoU 0.5 with the cat, of its class
        (0, 90, 20, 0, 10, 10, 0.04),  # the dog, as an owl
        (1, 7, 0, 0, 10, 10, 0.4),  # an image without boxes
    )
    lines = diagnose(detections, ground, CLASS_MAP, num_left_out=2).splitlines()
    assert lines[:6] == [
        "ground truth  3 boxes in 2 of 6 images, 1 crowd region",
        "detections    3; score > 0.05: 2, > 0.3: 2, > 0.5: 1; highest 0.600; "
        "2 of other classes left out",
        "best IoU      any class mean 0.500, 67 % of boxes >= 0.5; "
        "right mean 0.167, 33 % of boxes >= 0.5 (all)",
        "best IoU      any class mean 0.167, 33 % of boxes >= 0.5; "
        "right mean 0.167, 33 % of boxes >= 0.5 (score > 0.3)",
        "classes of boxes       dog 2 (67 %), cat 1 (33 %)",
        "classes of detections  cat 1 (33 %), owl 1 (33 %), dog 1 (33 %)",
    ]


def test_empty_detections_and_empty_ground_truth_are_named() -> None:
    assert cause(results()).startswith("nothing is found at all")
    assert cause(found(), truth()).startswith("ground truth has no boxes")
    text = diagnose(results(), truth(), CLASS_MAP)
    assert "0 boxes in 0 of 6 images" in text
    assert "highest none" in text
    assert "no boxes to meet" in text


def test_an_ap_below_a_thousandth_is_a_model_that_finds_nothing() -> None:
    assert [finds_nothing(ap) for ap in (None, 0.0, 0.00099, 0.001, 0.3)] == [True] * 3 + [
        False
    ] * 2


def test_the_advice_on_the_rate_is_the_one_that_is_given() -> None:
    text = diagnose(found(score=0.2), truth(*SCENE), CLASS_MAP, lr_advice="it is 5")
    assert text.endswith("start from --weights or change --lr (it is 5)")
    assert cause(found(score=0.2)).endswith("change --lr")


def test_low_scores_mean_too_early_even_where_boxes_fit() -> None:
    assert cause(found(score=0.2)).startswith("no detection has a score above 0.3: it is too early")


@pytest.mark.parametrize(("shift", "shown"), [(1, "cat as dog"), (2, "cat as owl")])
def test_right_boxes_of_wrong_classes_are_a_matter_of_class_ids(shift: int, shown: str) -> None:
    text = cause(found(shift=shift))
    assert text.startswith("boxes are met, but by other classes (")
    assert shown in text
    assert "ids and names of the categories" in text


def test_a_constant_shift_of_the_class_index_is_seen() -> None:
    scene = [row for row in SCENE if row[1] != 90]
    rows = [(image, IDS[IDS.index(int(label)) + 1], *box, 0.9) for image, label, *box in scene]
    text = cause(results(*rows), truth(*scene))
    assert "class indices are shifted by +1" in text


def test_exchanged_x_and_y_are_seen() -> None:
    assert "x and y exchanged" in cause(found(box=lambda x, y, w, h: (y, x, h, w)))


def test_boxes_of_another_image_size_are_seen() -> None:
    text = cause(found(box=lambda x, y, w, h: (4 * x, 4 * y, 4 * w, 4 * h)))
    assert "they reach to 1120 pixels, those of the ground truth to 280" in text


def test_boxes_elsewhere_are_a_matter_of_box_order_or_images() -> None:
    text = cause(found(box=lambda x, y, w, h: (x - 150, y + 200, w, h)))
    assert text.startswith("confident boxes are not where the objects are; check that the box")


def test_detections_of_one_class_only_are_seen() -> None:
    text = cause(found(label=7))
    assert text.startswith("100 % of the detections are dog, but only 33 % of the boxes")


def test_detections_of_one_class_are_right_where_there_is_only_one() -> None:
    one = truth(*[(image, 7, *box) for image, _, *box in SCENE])
    assert cause(found(label=7), one).startswith("boxes of the right class are met")


def test_detections_of_unknown_classes_are_named() -> None:
    assert cause(found(), left_out=7).startswith("most detections are of classes that the ground")


def test_good_detections_have_no_such_cause() -> None:
    assert cause(found()).startswith("boxes of the right class are met")


def test_a_histogram_shows_ten_classes() -> None:
    categories = [{"id": i, "name": f"c{i}"} for i in range(1, 13)]
    rows = [(0, i, i, 0, 5, 5) for i in range(1, 13)]
    ground = scene.truth(*rows, images=1, categories=categories)
    text = diagnose(results(), ground, ClassMap.from_categories(categories))
    line = next(line for line in text.splitlines() if line.startswith("classes of boxes"))
    assert line.endswith("c10 1 (8 %), and 2 more")
