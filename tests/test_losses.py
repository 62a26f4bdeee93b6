# SPDX-License-Identifier: Apache-2.0
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from effdet import distributed
from effdet.levels import as_one_level
from effdet.losses import DetectionLoss
from effdet.structures import Batch, Target
from tests import golden

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
LOGITS = [-2.0, -1.0, 0.0, 1.0, 2.0]


def target(boxes: list[list[float]], labels: list[int], crowd: list[int] | None = None) -> Target:
    return Target(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd or [0] * len(labels), dtype=torch.bool),
        image_id=0,
        scale=1.0,
        size=(64, 64),
    )


def numbers(prefix: str) -> list[float]:
    (line,) = golden.lines(prefix)
    return [float(n) for n in re.findall(r"[\d.]+", line)]


def logits_of(*rows: list[float]) -> Tensor:
    """``[1, A, K]`` logits."""
    return torch.tensor([rows])


def losses_of(
    logits: Tensor,
    deltas: Tensor,
    targets: list[Target],
    anchors: Tensor = ANCHORS,
    **settings: Any,
) -> dict[str, Tensor]:
    """The losses of ``[B, A, K]`` logits and ``[B, A, 4]`` deltas."""
    criterion = DetectionLoss(lambda size: anchors, **settings)
    assignment = criterion.assign(
        Batch(images=torch.zeros(len(targets), 3, 64, 64), targets=targets)
    )
    normalizer = criterion.normalizer([assignment])
    return criterion(as_one_level(logits), as_one_level(deltas), assignment, normalizer)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_background_gives_the_references_focal_loss(smoothing: float) -> None:
    expected = numbers(f"focal y 0.0 ls {smoothing}")
    for logit, value in zip(LOGITS, expected, strict=True):
        outputs = logits_of([logit]), torch.zeros(1, 1, 4)
        losses = losses_of(*outputs, [target([], [])], ANCHORS[:1], label_smoothing=smoothing)
        assert_close(losses["cls_loss"], torch.tensor(value), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_foreground_gives_the_references_focal_loss(smoothing: float) -> None:
    expected = numbers(f"focal y 1.0 ls {smoothing}")
    given = [target([[0.0, 0, 10, 10]], [0])]
    for logit, value in zip(LOGITS, expected, strict=True):
        outputs = logits_of([logit]), torch.zeros(1, 1, 4)
        losses = losses_of(*outputs, given, ANCHORS[:1], label_smoothing=smoothing)
        # One foreground anchor: the normaliser is 2.
        assert_close(2 * losses["cls_loss"], torch.tensor(value), rtol=1e-5, atol=1e-7)


def test_losses_are_divided_by_foreground_anchors_plus_one() -> None:
    boxes = target([[0.0, 0, 10, 9], [20, 0, 30, 9]], [0, 0])
    deltas = torch.zeros(1, 3, 4)
    losses = losses_of(torch.zeros(1, 3, 1), deltas, [boxes])
    zero = numbers("focal y 0.0 ls 0.0")[2], numbers("focal y 1.0 ls 0.0")[2]
    assert_close(losses["cls_loss"], torch.tensor((zero[0] + 2 * zero[1]) / 3), rtol=1e-5, atol=0)
    ty, th = -0.05, -0.10536052  # centre 4.5 for 5, log(9 / 10)
    box = 2 * (0.5 * ty**2 + 0.1 * abs(th) - 0.005)
    assert_close(losses["box_loss"], torch.tensor(box / 12), rtol=1e-5, atol=0)


def test_the_loss_is_the_weighted_sum() -> None:
    boxes = [target([[0.0, 0, 10, 7]], [0])]
    outputs = torch.zeros(1, 3, 1), torch.zeros(1, 3, 4)
    losses = losses_of(*outputs, boxes, box_loss_weight=7.0)
    assert_close(losses["loss"], losses["cls_loss"] + 7 * losses["box_loss"])
    assert losses["box_loss"] > 0
    default = losses_of(*outputs, boxes)
    assert_close(default["loss"], default["cls_loss"] + 50 * default["box_loss"])


def test_a_box_loss_of_weight_0_leaves_the_boxes_alone() -> None:
    deltas = torch.zeros(1, 3, 4, requires_grad=True)
    given = [target([[0.0, 0, 10, 7]], [0])]
    losses = losses_of(torch.zeros(1, 3, 1), deltas, given, box_loss_weight=0.0)
    losses["loss"].backward()
    assert deltas.grad is not None
    assert not deltas.grad.any()


def test_alpha_and_gamma_reach_the_focal_loss() -> None:
    losses = losses_of(
        logits_of([0.0]), torch.zeros(1, 1, 4), [target([], [])], ANCHORS[:1], alpha=0.5, gamma=0.0
    )
    assert_close(losses["cls_loss"], torch.tensor(0.5 * 0.6931472))


def test_only_the_right_class_of_a_matched_anchor_is_foreground() -> None:
    logits = logits_of([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]).requires_grad_()
    losses = losses_of(logits, torch.zeros(1, 3, 4), [target([[20.0, 0, 30, 10]], [2])])
    losses["cls_loss"].backward()
    assert logits.grad is not None
    assert (logits.grad[0] < 0).nonzero().tolist() == [[1, 2]]  # to be raised; the others fall


def test_ignored_anchor_gives_no_loss() -> None:
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    crowd = target([[0.0, 0, 30, 10]], [0], [1])
    losses = losses_of(logits, torch.zeros(1, 3, 4), [crowd])
    losses["loss"].backward()
    assert logits.grad is not None
    assert logits.grad[0].any(1).tolist() == [False, False, True]
    assert losses["box_loss"].item() == 0


def test_a_batch_without_objects_has_a_finite_loss_and_gradient() -> None:
    logits = torch.zeros(2, 3, 2, requires_grad=True)
    deltas = torch.zeros(2, 3, 4, requires_grad=True)
    losses = losses_of(logits, deltas, [target([], []), target([], [])])
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert deltas.grad is not None
    assert not deltas.grad.any()


def test_processes_share_one_normaliser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, 1 and 3 foreground anchors: N = 5 / 2, so their mean is the whole over 5."""
    boxes = [target([[0.0, 0, 10, 7]], [0])]
    outputs = torch.zeros(1, 3, 1), torch.zeros(1, 3, 4)
    alone = losses_of(*outputs, boxes)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda value: value + 3)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    shared = losses_of(*outputs, boxes)
    for name in ("loss", "cls_loss", "box_loss"):
        assert_close(shared[name], alone[name] * 2 / 2.5)


def test_losses_are_float32_under_mixed_precision() -> None:
    boxes = [target([[0.0, 0, 10, 7]], [0])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(torch.zeros(1, 3, 1).bfloat16(), torch.zeros(1, 3, 4).bfloat16(), boxes)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
