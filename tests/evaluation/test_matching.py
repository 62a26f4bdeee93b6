# SPDX-License-Identifier: Apache-2.0
"""Which detection belongs to which box, by hand; then as COCOeval counts it."""

import numpy as np
import pytest

from effdet.evaluation import Fate, Kind, match
from effdet.evaluation.coco import run_cocoeval
from tests.evaluation.scene import CAT, DOG, random_scene, results, truth

BOX = (10.0, 10.0, 40.0, 40.0)
SHIFTED = (26.0, 10.0, 40.0, 40.0)  # IoU 24 / 56 = 0.43
FAR = (200.0, 200.0, 40.0, 40.0)


def kinds(matching: object) -> list[Kind]:
    return [Kind(kind) for kind in matching.kinds]  # type: ignore[attr-defined]


def fates(matching: object) -> list[Fate]:
    return [Fate(fate) for fate in matching.fates]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("category", "box", "kind", "fate"),
    [
        (CAT, BOX, Kind.CORRECT, Fate.FOUND),
        (DOG, BOX, Kind.WRONG_CLASS, Fate.WRONG_CLASS),
        (CAT, SHIFTED, Kind.MISPLACED, Fate.MISPLACED),
        (DOG, SHIFTED, Kind.BACKGROUND, Fate.MISSED),
        (CAT, FAR, Kind.BACKGROUND, Fate.MISSED),
    ],
)
def test_one_detection_and_one_box(
    category: int, box: tuple[float, ...], kind: Kind, fate: Fate
) -> None:
    matching = match(truth((0, CAT, *BOX)), results((0, category, *box, 0.9)))
    assert kinds(matching) == [kind]
    assert fates(matching) == [fate]


def test_the_second_best_detection_of_a_box_is_a_duplicate() -> None:
    matching = match(
        truth((0, CAT, *BOX)), results((0, CAT, *BOX, 0.4), (0, CAT, 10, 10, 40, 30, 0.8))
    )
    assert matching.found.scores.tolist() == [0.8, 0.4]  # best first, though it fits less
    assert kinds(matching) == [Kind.CORRECT, Kind.DUPLICATE]


def test_a_detection_takes_the_box_it_overlaps_most_of_those_that_are_left() -> None:
    both = truth((0, CAT, 0, 0, 40, 40), (0, CAT, 0, 8, 40, 40))
    matching = match(both, results((0, CAT, 0, 7, 40, 40, 0.9), (0, CAT, 0, 7, 40, 40, 0.8)))
    assert matching.partner.tolist() == [1, 0]
    assert kinds(matching) == [Kind.CORRECT] * 2


def test_the_right_class_comes_before_a_higher_score_of_another() -> None:
    matching = match(truth((0, CAT, *BOX)), results((0, DOG, *BOX, 0.9), (0, CAT, *BOX, 0.3)))
    assert kinds(matching) == [Kind.WRONG_CLASS, Kind.CORRECT]
    assert fates(matching) == [Fate.FOUND]
    assert matching.partner.tolist() == [-1, 0]


def test_only_one_detection_of_another_class_has_the_box_to_itself() -> None:
    matching = match(truth((0, CAT, *BOX)), results((0, DOG, *BOX, 0.9), (0, DOG, *BOX, 0.8)))
    assert kinds(matching) == [Kind.WRONG_CLASS] * 2
    assert matching.partner.tolist() == [0, -1]


def test_detections_on_a_crowd_of_their_class_are_ignored_others_are_not() -> None:
    crowd = truth((0, CAT, 0, 0, 200, 200, 1))
    inside, half_out = (10.0, 10.0, 20.0, 20.0), (190.0, 10.0, 40.0, 20.0)
    found = results(
        (0, CAT, *inside, 0.9), (0, CAT, *inside, 0.8), (0, DOG, *inside, 0.7),
        (0, CAT, *half_out, 0.6),
    )  # fmt: skip
    matching = match(crowd, found)
    assert kinds(matching) == [Kind.IGNORED] * 2 + [Kind.BACKGROUND] * 2
    assert len(matching.truth) == 0


def test_detections_below_the_threshold_do_not_exist() -> None:
    found = results((0, CAT, *BOX, 0.5), (0, CAT, *BOX, 0.49))
    matching = match(truth((0, CAT, *BOX)), found, score_threshold=0.5)
    assert len(matching.found) == 1


def test_boxes_and_detections_meet_only_within_their_image() -> None:
    matching = match(truth((0, CAT, *BOX)), results((1, CAT, *BOX, 0.9)))
    assert kinds(matching) == [Kind.BACKGROUND]
    assert fates(matching) == [Fate.MISSED]


def test_nothing_matches_nothing() -> None:
    assert len(match(truth(), results()).found) == 0
    assert fates(match(truth((0, CAT, *BOX)), results())) == [Fate.MISSED]
    assert kinds(match(truth(), results((0, CAT, *BOX, 0.9)))) == [Kind.BACKGROUND]


@pytest.mark.parametrize("seed", range(8))
def test_as_many_detections_are_correct_as_cocoeval_counts(seed: int) -> None:
    ground_truth, found = random_scene(seed)
    matching = match(ground_truth, found)
    _, recall = run_cocoeval(ground_truth, found, "pycocotools")
    for index, category_id in enumerate(ground_truth.categories):
        boxes = matching.truth.category_ids == category_id
        share = (matching.fates[boxes] == Fate.FOUND).mean()
        assert share == pytest.approx(recall[0, index, 0, 2])
        correct = matching.kinds[matching.found.category_ids == category_id] == Kind.CORRECT
        assert correct.sum() == (matching.fates[boxes] == Fate.FOUND).sum()
    assert len({*matching.kinds.tolist()}) >= 4  # the scene has something of most kinds
    paired = matching.partner[matching.partner >= 0]
    assert len(np.unique(paired)) == len(paired)
