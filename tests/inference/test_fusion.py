# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.testing import assert_close

from effdet.inference.fusion import join, limit, suppress, weighted_box_fusion
from effdet.settings import PostprocessConfig
from effdet.structures import Detections

Row = tuple[float, float, float, float, float, int]


def detections(*rows: Row) -> Detections:
    """Rows of box, score and label, best first."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(boxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long())


def test_a_fused_box_is_the_mean_by_score_and_its_score_that_of_all_looks() -> None:
    fused = weighted_box_fusion(
        [detections((0, 0, 10, 10, 0.6, 1)), detections((0, 0, 12, 10, 0.3, 1))]
    )
    assert_close(fused.boxes, torch.tensor([[0, 0, (0.6 * 10 + 0.3 * 12) / 0.9, 10]]))
    assert_close(fused.scores, torch.tensor([0.45]))
    assert fused.labels.tolist() == [1]


def test_what_one_look_of_four_has_seen_counts_a_quarter() -> None:
    fused = weighted_box_fusion([detections((0, 0, 10, 10, 0.8, 0)), *[detections()] * 3])
    assert_close(fused.scores, torch.tensor([0.2]))
    assert_close(fused.boxes, torch.tensor([[0.0, 0, 10, 10]]))


def test_other_classes_and_places_stay_apart_and_the_best_comes_first() -> None:
    one = detections((0, 0, 10, 10, 0.8, 0), (50, 50, 60, 60, 0.7, 0))
    two = detections((0, 0, 10, 10, 0.9, 1), (50, 50, 60, 60, 0.9, 0))
    fused = weighted_box_fusion([one, two])
    assert_close(fused.scores, torch.tensor([0.8, 0.45, 0.4]))
    assert fused.labels.tolist() == [0, 1, 0]
    assert_close(fused.boxes[0], torch.tensor([50.0, 50, 60, 60]))


def test_boxes_of_one_look_are_never_fused() -> None:
    near = detections((0, 0, 10, 10, 0.8, 0), (0, 0, 10, 11, 0.6, 0))
    fused = weighted_box_fusion([near, detections()])
    assert_close(fused.scores, torch.tensor([0.4, 0.3]))


def test_a_box_joins_the_one_that_it_overlaps_most() -> None:
    one = detections((0, 0, 10, 10, 0.9, 0), (4, 0, 14, 10, 0.8, 0))
    fused = weighted_box_fusion([one, detections((3, 0, 13, 10, 0.4, 0))])
    assert_close(fused.scores, torch.tensor([0.6, 0.45]))
    assert_close(fused.boxes[0, 0], torch.tensor((4 * 0.8 + 3 * 0.4) / 1.2))


def test_nothing_gives_nothing() -> None:
    assert len(weighted_box_fusion([detections(), detections()])) == 0
    assert len(suppress(detections(), PostprocessConfig())) == 0
    assert len(limit(detections(), PostprocessConfig(max_per_class=1))) == 0


def test_joined_detections_fall_and_equal_ones_keep_their_order() -> None:
    both = join(
        [detections((0, 0, 1, 1, 0.5, 0)), detections((0, 0, 2, 2, 0.9, 1), (0, 0, 3, 3, 0.5, 2))]
    )
    assert both.labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"score_threshold": 0.5}, [0, 1]),
        ({"score_threshold": 0.0, "max_detections": 3}, [0, 1, 2]),
        ({"score_threshold": 0.0, "max_per_class": 1}, [0, 2]),
        ({"score_threshold": 0.0, "max_per_class": 1, "max_detections": 1}, [0]),
    ],
)
def test_limits_are_those_of_the_settings(settings: dict[str, float], kept: list[int]) -> None:
    labels = [1, 1, 2, 1]
    rows = [(i, 0, i + 1, 1, 0.9 - 0.2 * i, label) for i, label in enumerate(labels)]
    found = limit(detections(*rows), PostprocessConfig(**settings))
    assert found.boxes[:, 0].int().tolist() == kept


def test_what_stands_twice_is_suppressed_within_its_class() -> None:
    rows = [(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 9, 0.8, 0), (0, 0, 10, 10, 0.7, 1)]
    found = suppress(detections(*rows), PostprocessConfig())
    assert found.labels.tolist() == [0, 1]
    assert_close(found.scores, torch.tensor([0.9, 0.7]))
    assert len(suppress(detections(*rows), PostprocessConfig(class_agnostic=True))) == 1
