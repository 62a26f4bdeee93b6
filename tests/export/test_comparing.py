# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from effdet.errors import ExportError
from effdet.export.checking import Check, judge
from effdet.export.comparing import Difference, Rows, compare_detections, compare_rows
from effdet.structures import Detections

BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 0, 40, 20], [0, 0, 10, 11]])
SCORES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])
ROWS = Rows(scores=SCORES, boxes=BOXES)


def found(*rows: tuple[int, int], shift: float = 0.0, less: float = 0.0) -> Detections:
    """Detections of (anchor, class) pairs, moved and with less score."""
    return Detections(
        boxes=BOXES[[a for a, _ in rows]] + shift,
        scores=torch.tensor([float(SCORES[a, k]) for a, k in rows]) - less,
        labels=torch.tensor([k for _, k in rows], dtype=torch.int64),
    )


def compare(a: Detections, b: Detections) -> Difference:
    return compare_detections(a, b, ROWS, 0.1, 0.01)


def test_detections_that_belong_together_differ_by_their_corners_and_scores() -> None:
    difference = compare(found((0, 0), (1, 1)), found((1, 1), (0, 0), shift=0.2, less=0.05))
    assert difference.boxes == pytest.approx(0.2, abs=1e-5)
    assert difference.scores == pytest.approx(0.05, abs=1e-5)
    assert (difference.detections, difference.ties, difference.missing) == (2, 0, 0)


def test_a_box_that_ties_with_another_is_no_fault_and_one_from_nowhere_is() -> None:
    # Anchor 0 or 1 alone: the other side has it among its outputs.
    difference = compare(found((0, 0), (1, 1)), found((0, 0)))
    assert (difference.ties, difference.missing) == (1, 0)
    elsewhere = compare(found((0, 0)), found((1, 1), shift=5.0))
    assert (elsewhere.ties, elsewhere.missing) == (1, 1)
    another_class = compare(found((1, 1)), found((1, 0), less=0.05))
    assert (another_class.ties, another_class.missing) == (1, 1)


def test_nothing_against_nothing_is_equal() -> None:
    assert compare(found(), found()) == Difference()
    assert compare(found((0, 0)), found()).ties == 1
    assert compare(found(), found((0, 0))).ties == 1


def test_raw_outputs_count_boxes_of_the_best_anchors_and_all_scores() -> None:
    scores = SCORES.clone()
    scores[1, 0] += 0.3
    boxes = BOXES.clone()
    boxes[1] += 7.0
    theirs = Rows(scores=scores, boxes=boxes)
    assert compare_rows(ROWS, theirs, count=1) == (0.0, pytest.approx(0.3, abs=1e-5))
    assert compare_rows(ROWS, theirs) == (7.0, pytest.approx(0.3, abs=1e-5))
    broken = Rows(scores=SCORES * torch.nan, boxes=BOXES)
    assert compare_rows(ROWS, broken)[1] > 1


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ({"boxes": 0.2}, "boxes differ by 0.2 pixels, more than 0.1"),
        ({"scores": 0.02}, "scores differ by 0.02, more than 0.01"),
        ({"detections": Difference(boxes=0.3)}, "boxes of detections differ by 0.3 pixels"),
        ({"detections": Difference(scores=0.3)}, "scores of detections differ by 0.3"),
        ({"detections": Difference(missing=1, detections=99)}, "1 detections are in one and not"),
    ],
)
def test_what_is_beyond_its_limit_is_named(check: dict[str, object], text: str) -> None:
    values = {"pictures": "two pictures", "boxes": 0.0, "scores": 0.0, "detections": Difference()}
    with pytest.raises(ExportError, match=f"on two pictures: {text}"):
        judge(Check(**(values | check)), 0.1, 0.01)  # type: ignore[arg-type]


def test_a_few_ties_are_taken() -> None:
    ties = Difference(ties=2, detections=5)
    judge(Check(pictures="", boxes=None, scores=None, detections=ties), 0.1, 0.01)


def test_more_are_explained() -> None:
    ties = Difference(ties=3, detections=50)
    with pytest.raises(ExportError, match=r"3 of 50 detections on x are ties: .* a trained"):
        judge(Check(pictures="x", boxes=0.0, scores=0.0, detections=ties), 0.1, 0.01)


def test_detections_alone_must_have_been_compared() -> None:
    judge(Check(pictures="", boxes=0.0, scores=0.0, detections=Difference()), 0.1, 0.01)
    with pytest.raises(ExportError, match=r"nothing was found on x, .* --check-images with images"):
        judge(Check(pictures="x", boxes=None, scores=None, detections=Difference()), 0.1, 0.01)
