# SPDX-License-Identifier: Apache-2.0
from effdet.evaluation import Fate, Kind, count_errors, match, spread_images, worst_images
from tests.evaluation.scene import CAT, DOG, random_scene, results, truth

A, B = (0.0, 0.0, 40.0, 40.0), (60.0, 0.0, 40.0, 40.0)


def test_detections_and_boxes_are_counted_by_kind_and_class() -> None:
    boxes = truth((0, CAT, *A), (0, DOG, *B), (1, DOG, *A))
    found = results((0, CAT, *A, 0.9), (0, CAT, *B, 0.8), (1, CAT, *B, 0.7))
    matching = match(boxes, found)
    counts = count_errors(matching)
    assert counts.detections == {
        Kind.CORRECT: 1,
        Kind.WRONG_CLASS: 1,
        Kind.DUPLICATE: 0,
        Kind.MISPLACED: 0,
        Kind.BACKGROUND: 1,
    }
    assert counts.boxes == {
        Fate.FOUND: 1,
        Fate.WRONG_CLASS: 1,
        Fate.MISPLACED: 0,
        Fate.MISSED: 1,
    }
    assert count_errors(matching, DOG).detections[Kind.WRONG_CLASS] == 0
    assert count_errors(matching, DOG).boxes[Fate.MISSED] == 1


def test_every_box_and_every_detection_is_counted_once() -> None:
    for seed in range(5):
        matching = match(*random_scene(seed))
        counts = count_errors(matching)
        ignored = int((matching.kinds == Kind.IGNORED).sum())
        assert sum(counts.detections.values()) == len(matching.found) - ignored
        assert sum(counts.boxes.values()) == len(matching.truth)


def test_the_worst_image_has_most_missed_and_false_boxes() -> None:
    boxes = truth((0, CAT, *A), (1, CAT, *A), (1, CAT, *B), (2, CAT, *A), images=5)
    found = results((0, CAT, *A, 0.9), (1, CAT, 200, 0, 9, 9, 0.9), (3, CAT, *A, 0.9))
    images = worst_images(match(boxes, found), 9)
    assert [(i.image_id, i.boxes, i.missed, i.false) for i in images] == [
        (1, 2, 2, 1),
        (2, 1, 1, 0),
        (3, 0, 0, 1),
    ]
    assert images[0].total == 3
    assert len(worst_images(match(boxes, found), 1)) == 1
    assert worst_images(match(truth(), results()), 5) == []


def test_images_for_a_look_are_spread_over_those_with_boxes() -> None:
    boxes = truth(*((i, CAT, *A) for i in range(0, 20, 2)), images=20)
    matching = match(boxes, results())
    assert spread_images(matching, range(20), 4) == [0, 6, 12, 18]
    assert spread_images(matching, range(20), 99) == list(range(0, 20, 2))
    assert spread_images(match(truth(), results()), range(3), 4) == []
