# SPDX-License-Identifier: Apache-2.0
"""The operators of ``torch.ops.effdet``: right arguments, and the public function for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.draw import FLOATS, INTEGERS, WILD, Draw


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of ``torch.ops.effdet``.

    Attributes:
        module: its file in effdet/ops, which holds the definition ``reference``.
        draw: right arguments of the operator.
        public: calls the public function with the operator's arguments.
        tolerance: largest relative and absolute difference from the definition, per dtype name
            or for all; None for bit equality.
    """

    module: str
    draw: Callable[[Draw], list[Any]]
    public: Callable[..., Any]
    tolerance: float | None = None


def draw_ema(draw: Draw) -> list[Any]:
    """Arguments of ``ema_update_``."""
    from effdet.ops.ema import joined_averages

    averages, values = [], []
    for _ in range(draw.size(12)):
        shape = [draw.size(7) for _ in range(draw.randrange(5))]
        if draw.chance(0.05):
            shape = [draw.size(100_000)]
        dtype = draw.choice((*FLOATS, *INTEGERS))
        average = dtype if dtype in (torch.float64, *INTEGERS) else torch.float32
        values.append(draw.layout(draw.floats(shape, dtype)))
        averages.append(draw.floats(shape, average))
        if draw.chance(0.3) and len(shape) == 4:
            averages[-1] = averages[-1].contiguous(memory_format=torch.channels_last)
        elif draw.chance(0.2):
            averages[-1] = torch.stack((averages[-1],) * 2, -1)[..., 0]
    updates = torch.tensor([draw.choice((0, 1, 8, 10**6, 2**62, -5, 2**63 - 1)), 0])
    found_inf = draw.choice((None, None, torch.zeros(1), torch.ones(()), torch.tensor([torch.nan])))
    decay, joined = draw.choice((0.0, 0.5, 0.9998, 1.0)), draw.chance(0.5)
    if joined:
        averages = joined_averages(values)
    return [averages, values, updates, found_inf, decay, joined]


def call_ema(
    averages: Any, values: Any, updates: Any, found_inf: Any, decay: Any, joined: Any
) -> None:
    """The public function."""
    from effdet.ops import ema_update_

    ema_update_(averages, values, updates, decay=decay, found_inf=found_inf, joined=joined)


def scalar(draw: Draw, dtype: torch.dtype) -> Tensor:
    """A normalizer or a scale for levels of ``dtype``."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.tensor(draw.choice((1.0, 7.0, 65536.0)), dtype=wide)


def draw_focal_loss(draw: Draw) -> list[Any]:
    """Arguments of ``sigmoid_focal_loss``."""
    batch, num_classes = draw.size(3), draw.choice((1, 2, 4, 7, 20, 90))
    dtype, shapes = draw.choice(FLOATS), draw.level_shapes()
    logits = draw.levels(batch, shapes, num_classes, dtype)
    num_anchors = sum(anchors * height * width for anchors, height, width in shapes)
    targets = torch.randint(-2, num_classes, (batch, num_anchors), dtype=torch.int32)
    if draw.chance(0.2) and targets.numel():
        targets.view(-1)[0] = draw.choice((num_classes, -3, 2**31 - 1, -(2**31)))
        draw.refusable = True
    label_smoothing = draw.choice((0.0, 0.1))
    # With smoothing an infinite logit is 0 * inf somewhere: not finite, but in which way?
    draw.comparable = not (draw.wild and label_smoothing > 0)
    return [
        logits, draw.layout(targets) if draw.chance(0.2) else targets,
        scalar(draw, dtype), scalar(draw, dtype), num_classes, draw.choice((0.0, 0.25, 1.0)),
        draw.choice((0.0, 0.5, 1.5, 2.0, 3.7)), label_smoothing, draw.chance(0.7),
    ]  # fmt: skip


def call_focal_loss(
    logits: Any, targets: Any, normalizer: Any, grad_scale: Any, num_classes: Any, *settings: Any
) -> None:
    """The public function, forward and backward."""
    from effdet.ops import sigmoid_focal_loss

    alpha, gamma, label_smoothing, need_grad = settings
    logits = [x.detach().requires_grad_(need_grad) for x in logits]
    loss = sigmoid_focal_loss(
        logits, targets, num_classes=num_classes, alpha=alpha, gamma=gamma,
        label_smoothing=label_smoothing, normalizer=normalizer, grad_scale=grad_scale,
    )  # fmt: skip
    if loss.requires_grad:
        (2 * loss).backward()


def draw_rescale(draw: Draw) -> list[Any]:
    """Arguments of ``rescale_``."""
    dtype = draw.choice(FLOATS)
    gradients = draw.levels(draw.size(3), draw.level_shapes(), 4, dtype)
    gradients = [x.contiguous() if 0 in x.stride() else x for x in gradients]
    return [gradients, scalar(draw, dtype), scalar(draw, dtype)]


def call_rescale(*arguments: Any) -> None:
    """There is no public function."""
    torch.ops.effdet.rescale_(*arguments)


def draw_box_loss(draw: Draw) -> list[Any]:
    """Arguments of ``huber_box_loss``."""
    batch, num_boxes = draw.size(3), draw.size(9)
    dtype, shapes = draw.choice(FLOATS), draw.level_shapes()
    num_anchors = sum(anchors * height * width for anchors, height, width in shapes)
    matched = torch.randint(-2, max(num_boxes, 1), (batch, num_anchors), dtype=torch.int32)
    if num_boxes == 0:
        matched.clamp_(max=-1)
    elif draw.chance(0.2) and matched.numel():
        matched.view(-1)[0] = draw.choice((num_boxes, 2**31 - 1, -(2**31)))
        draw.refusable = True
    return [
        draw.levels(batch, shapes, 4, dtype), draw.boxes(num_anchors),
        draw.boxes(batch, num_boxes), matched, scalar(draw, dtype), scalar(draw, dtype),
        draw.choice((0.1, 1.0)), draw.chance(0.7),
    ]  # fmt: skip


def call_box_loss(
    deltas: Any, anchors: Any, boxes: Any, matched: Any, normalizer: Any, grad_scale: Any,
    delta: Any, need_grad: Any,
) -> None:  # fmt: skip
    """The public function, forward and backward."""
    from effdet.ops.box_loss import huber_box_loss

    deltas = [x.detach().requires_grad_(need_grad) for x in deltas]
    loss = huber_box_loss(
        deltas, anchors, boxes, matched, normalizer=normalizer, grad_scale=grad_scale, delta=delta
    )
    if loss.requires_grad:
        (2 * loss).backward()


def draw_assign(draw: Draw) -> list[Any]:
    """Arguments of ``assign_anchors``."""
    batch, num_boxes = draw.size(3), draw.size(40)
    labels = torch.randint(-2, 5, (batch, num_boxes))
    if draw.chance(0.1) and labels.numel():
        labels.view(-1)[0] = draw.choice((2**62, -(2**62), 2**31, -3))
        draw.refusable = True
    return [
        draw.boxes(draw.size(700)), draw.boxes(batch, num_boxes), draw.layout(labels),
        draw.choice((0.0, 0.3, 0.5, 1.0)), draw.choice((0.0, 0.5, 1.0)),
    ]  # fmt: skip


def call_assign(
    anchors: Any, boxes: Any, labels: Any, foreground_iou: Any, crowd_overlap: Any
) -> None:
    """The public function."""
    from effdet.ops.assign import assign_anchors

    assign_anchors(
        anchors, boxes, labels, foreground_iou=foreground_iou, crowd_overlap=crowd_overlap
    )


def draw_select(draw: Draw) -> list[Any]:
    """Arguments of ``select_candidates``."""
    batch, num_classes = draw.size(3), draw.choice((1, 2, 4, 7, 20, 90))
    dtype, shapes = draw.choice(FLOATS), draw.level_shapes()
    num_anchors = sum(anchors * height * width for anchors, height, width in shapes)
    most = num_anchors * num_classes + 2
    exclude = [draw.randrange(num_classes) for _ in range(draw.choice((0, 0, 1, 3)))]
    return [
        draw.levels(batch, shapes, num_classes, dtype), draw.levels(batch, shapes, 4, dtype),
        draw.boxes(num_anchors), num_classes, draw.size(most, zero=0),
        draw.choice((0.0, 0.0, 0.05, 0.3)), exclude,
    ]  # fmt: skip


def call_select(
    cls_logits: Any, box_deltas: Any, anchors: Any, num_classes: Any, max_candidates: Any,
    score_threshold: Any, exclude: Any,
) -> None:  # fmt: skip
    """The public function."""
    from effdet.ops.select_candidates import select_candidates

    select_candidates(
        cls_logits, box_deltas, anchors, num_classes=num_classes, max_candidates=max_candidates,
        score_threshold=score_threshold, exclude=exclude,
    )  # fmt: skip


def draw_nms(draw: Draw) -> list[Any]:
    """Arguments of ``nms``."""
    batch, num_candidates = draw.size(3), draw.size(80)
    method = draw.choice(("hard", "linear", "gaussian"))
    scores = torch.rand(batch, num_candidates)
    if draw.chance(0.5):
        scores = scores.sort(1, descending=True).values
    if method == "hard" and draw.chance(0.3):  # equal scores; soft decay may split them
        scores = (scores * 4).round() / 4
    if draw.chance(0.1) and scores.numel():
        scores.view(-1)[0] = draw.choice(WILD)
    labels = torch.randint(0, draw.choice((1, 5)), (batch, num_candidates))
    if draw.chance(0.1) and labels.numel():
        labels.view(-1)[0] = draw.choice((2**62, -(2**62)))
    boxes = draw.boxes(batch, num_candidates)
    # Soft decay rounds differently in the last bit, which may change who is next.
    draw.comparable = method == "hard" or num_candidates < 20
    return [
        boxes, draw.layout(scores), draw.layout(labels), method,
        draw.choice((0.0, 0.3, 0.5, 1.0)), draw.choice((0.1, 0.5)), draw.choice((0.0, 0.001, 0.3)),
        draw.size(100, zero=0), draw.choice((0, 0, 1, 4)), draw.chance(0.3),
    ]  # fmt: skip


def call_nms(boxes: Any, scores: Any, labels: Any, *settings: Any) -> None:
    """The public function."""
    from effdet.ops.nms import nms

    names = (
        "method", "iou_threshold", "sigma", "score_threshold", "max_detections", "max_per_class",
        "class_agnostic",
    )  # fmt: skip
    nms(boxes, scores, labels, **dict(zip(names, settings, strict=True)))


OPERATORS = {
    "ema_update_": Operator(module="ema", draw=draw_ema, public=call_ema),
    "sigmoid_focal_loss": Operator(
        module="focal_loss", draw=draw_focal_loss, public=call_focal_loss, tolerance=1e-4
    ),
    "rescale_": Operator(module="rescale", draw=draw_rescale, public=call_rescale),
    "huber_box_loss": Operator(
        module="box_loss", draw=draw_box_loss, public=call_box_loss, tolerance=1e-4
    ),
    "assign_anchors": Operator(module="assign", draw=draw_assign, public=call_assign),
    "select_candidates": Operator(
        module="select_candidates", draw=draw_select, public=call_select, tolerance=1e-5
    ),
    "nms": Operator(module="nms", draw=draw_nms, public=call_nms, tolerance=1e-5),
}
