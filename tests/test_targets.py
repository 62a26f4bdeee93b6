# SPDX-License-Identifier: Apache-2.0
import ast
import re

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from effdet.anchors import build_anchors, feature_sizes
from effdet.boxes import decode_boxes
from effdet.config import model_config
from effdet.ops.box_loss import box_targets
from effdet.structures import BACKGROUND, IGNORE, Target
from effdet.targets import Assignment, assign_targets, pad_targets
from tests import golden

CONFIG = model_config("efficientdet_d0", image_size=(128, 128))
SQUARES = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
"""Four anchors that do not touch."""


def target(boxes: list[list[float]], labels: list[int], crowd: list[int] | None = None) -> Target:
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd or [0] * len(labels), dtype=torch.bool),
        image_id=0,
        scale=1.0,
        size=(128, 128),
    )


def deltas_of(anchors: Tensor, assignment: Assignment) -> Tensor:
    """``[B, A, 4]`` offsets that the box loss aims at."""
    return box_targets(anchors, assignment.boxes, assignment.matched)


@pytest.fixture(scope="module")
def reference() -> Assignment:
    """The boxes of the reference run; there they are in y, x order and classes start at 1."""
    boxes = [[12.0, 10, 90, 70], [100, 100, 103, 104], [30, 30, 62, 62]]
    return assign_targets(build_anchors(CONFIG), [target(boxes, [2, 6, 89])])


def by_level(values: Tensor) -> dict[int, Tensor]:
    """``[A, ...]`` to ``[H, W, 9, ...]`` of each level."""
    sizes = feature_sizes(CONFIG.image_size, 3, 7)
    parts = values.split([9 * height * width for height, width in sizes])
    return {
        level: part.reshape(*size, 9, *values.shape[1:])
        for level, size, part in zip(CONFIG.levels, sizes, parts)
    }


def test_as_many_anchors_match_as_in_the_reference(reference: Assignment) -> None:
    assert reference.num_foreground.item() == 49
    assert reference.num_foreground.dtype == torch.float32
    assert (reference.cls_targets == 6).sum() == 1  # the tiny box only by force


def test_the_same_anchors_match_as_in_the_reference(reference: Assignment) -> None:
    (line,) = golden.lines("numpos 49.0")
    expected = ast.literal_eval(line)
    for level, classes in by_level(reference.cls_targets[0]).items():
        positions = (classes >= 0).nonzero().tolist()
        found = [(tuple(p), int(classes[tuple(p)])) for p in positions]
        assert found[:12] == expected[level]  # the reference run printed twelve at most


def test_box_targets_sum_up_as_in_the_reference(reference: Assignment) -> None:
    deltas = by_level(deltas_of(build_anchors(CONFIG), reference)[0])
    for line in golden.lines("boxtarget abs sum level"):
        level, total = re.split(r"\s+", line)
        assert_close(deltas[int(level)].abs().sum(), torch.tensor(float(total)), rtol=1e-5, atol=0)


def test_box_targets_decode_to_the_matched_boxes(reference: Assignment) -> None:
    anchors = build_anchors(CONFIG)
    deltas = deltas_of(anchors, reference)[0]
    cat = reference.cls_targets[0] == 2
    boxes = decode_boxes(deltas[cat], anchors[cat])
    assert_close(boxes, torch.tensor([12.0, 10, 90, 70]).expand_as(boxes), rtol=1e-4, atol=1e-3)
    assert not deltas[reference.cls_targets[0] < 0].any()


def test_targets_of_unequal_length_are_padded() -> None:
    boxes, labels = pad_targets(
        [
            target([[0.0, 0, 10, 8]], [3]),
            target([], []),
            target([[40.0, 0, 50, 10], [60, 0, 70, 7]], [1, 2], crowd=[0, 1]),
        ]
    )
    assert labels.tolist() == [[3, BACKGROUND], [BACKGROUND] * 2, [1, IGNORE]]
    assert labels.dtype == torch.int64
    assert boxes.tolist() == [
        [[0, 0, 10, 8], [0] * 4], [[0] * 4] * 2, [[40, 0, 50, 10], [60, 0, 70, 7]],
    ]  # fmt: skip
    assert boxes.dtype == torch.float32


def test_background_mostly_on_a_crowd_is_ignored_and_objects_there_are_not() -> None:
    given = target([[0.0, 0, 25, 10], [0, 0, 10, 10], [44, 0, 70, 10]], [1, 0, 1], [1, 0, 1])
    assignment = assign_targets(SQUARES, [given])
    # Anchor 0 has its object, 1 lies half on the first crowd, 2 to 0.6 and 3 wholly on the other.
    assert assignment.cls_targets.tolist() == [[0, IGNORE, IGNORE, IGNORE]]
    assert assignment.num_foreground.item() == 1
    given = target([[0.0, 0, 24, 10], [46, 0, 64, 10]], [0, 0], [1, 1])
    assert assign_targets(SQUARES, [given]).cls_targets.tolist() == [
        [IGNORE, BACKGROUND, BACKGROUND, BACKGROUND]
    ]


def test_an_image_without_boxes_is_all_background() -> None:
    assignment = assign_targets(SQUARES, [target([], [])])
    assert assignment.cls_targets.tolist() == [[BACKGROUND] * 4]
    assert assignment.cls_targets.dtype == torch.int32
    assert assignment.num_foreground.item() == 0
    assert assignment.boxes.shape == (1, 0, 4)
    assert not deltas_of(SQUARES, assignment).any()


def test_a_batch_is_its_images() -> None:
    targets = [
        target([[0.0, 0, 10, 8]], [3]),
        target([], []),
        target([[40.0, 0, 50, 10], [60, 0, 70, 7]], [1, 2]),
    ]
    batch = assign_targets(SQUARES, targets)
    singles = [assign_targets(SQUARES, [one]) for one in targets]
    assert torch.equal(batch.cls_targets, torch.cat([s.cls_targets for s in singles]))
    assert torch.equal(batch.matched, torch.cat([s.matched for s in singles]))
    deltas = torch.cat([deltas_of(SQUARES, s) for s in singles])
    assert torch.equal(deltas_of(SQUARES, batch), deltas)
    assert batch.num_foreground.item() == 3


def test_a_box_without_area_gives_finite_targets() -> None:
    assignment = assign_targets(SQUARES, [target([[5.0, 5, 5, 5]], [0])])
    assert deltas_of(SQUARES, assignment).isfinite().all()


def test_targets_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"at least one image, got \[\]"):
        pad_targets([])
    good = target([[0.0, 0, 10, 10]], [0])
    bad = Target(
        boxes=torch.zeros(3, 4),
        labels=torch.zeros(2, dtype=torch.int64),
        crowd=torch.zeros(1, dtype=torch.bool),
        image_id=0,
        scale=1.0,
        size=(64, 64),
    )
    with pytest.raises(ValueError, match=r"targets\[1\] must .*, got 3, 2 and 1"):
        pad_targets([good, bad])


def test_a_huge_label_does_not_wrap_around_to_another_class() -> None:
    assignment = assign_targets(
        torch.tensor([[0.0, 0, 10, 10]]), [target([[0, 0, 10, 10]], [2**32])]
    )
    assert assignment.cls_targets.tolist() == [[2**31 - 1]]
