# SPDX-License-Identifier: Apache-2.0
"""Every operator on a device against its definition in PyTorch; benchmarks/gpu.py runs it first.

Each check yields the name of a case and how far the operator is off, in units of what is allowed:
above 1 is wrong. Where the result must be exact, off is 0 or infinite.
"""

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import effdet.ops  # noqa: F401 - defines the operators

Case = tuple[str, float]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = (torch.channels_last, torch.contiguous_format)
SHAPES = ((9, 16, 16), (9, 5, 3), (9, 1, 1))  # (anchors, H, W) of the levels
ANCHORS = sum(anchors * height * width for anchors, height, width in SHAPES)
BATCH = 3
# Largest relative error of one rounding to the type.
ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}


def check_all(device: str) -> dict[str, float]:
    """Run all cases; returns how far each is off.

    Raises:
        SystemExit: if one of them is wrong.
    """
    torch.manual_seed(0)
    checks: tuple[Callable[[str], Iterator[Case]], ...] = (
        focal_loss, box_loss, rescale, assignment, candidates, suppression, average,
    )  # fmt: skip
    found = {name: off for check in checks for name, off in check(device)}
    wrong = {name: off for name, off in found.items() if not off <= 1}
    if wrong:
        raise SystemExit(f"wrong results, in units of the allowed error: {wrong}")
    return found


def definition(module: str) -> Callable[..., Any]:
    """The reference of an operator's module.

    By name, because the package's function ``nms`` hides the module of that name.
    """
    reference: Callable[..., Any] = importlib.import_module(f"effdet.ops.{module}").reference
    return reference


def levels(values: int, dtype: torch.dtype, layout: torch.memory_format) -> list[Tensor]:
    """Random outputs of a head on the CPU."""
    return [
        (3 * torch.randn(BATCH, anchors * values, height, width) - 1)
        .to(dtype)
        .contiguous(memory_format=layout)
        for anchors, height, width in SHAPES
    ]


def scalar(value: float, dtype: torch.dtype) -> Tensor:
    """A number in the dtype of the losses."""
    return torch.tensor(value, dtype=torch.float64 if dtype == torch.float64 else torch.float32)


def on(device: str, arguments: Sequence[Any]) -> list[Any]:
    """The arguments with copies of all tensors on ``device``, layouts kept."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, copy=True)
        return [move(x) for x in value] if isinstance(value, list) else value

    return [move(value) for value in arguments]


def in_float64(arguments: Sequence[Any], exact: Sequence[int] = ()) -> list[Any]:
    """The arguments with floating-point tensors in float64, but those at ``exact`` places."""

    def widen(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.double() if value.is_floating_point() else value
        return [widen(x) for x in value] if isinstance(value, list) else value

    return [x if i in exact else widen(x) for i, x in enumerate(arguments)]


def off(
    result: Tensor, expected: Tensor, relative: float, of_largest: float, absolute: float = 1e-30
) -> float:
    """Largest error over what is allowed.

    That is ``relative`` * |expected| + ``of_largest`` * the largest of them + ``absolute``.
    """
    result, expected = result.detach().cpu().double(), expected.cpu().double()
    if result.shape != expected.shape or not torch.equal(result.isnan(), expected.isnan()):
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    largest = expected.abs().nan_to_num().max()
    allowed = relative * expected.abs() + of_largest * largest + absolute
    return ((result - expected).abs() / allowed).nan_to_num(0.0).max().item()


def equal(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """0 where all tensors are equal, else infinite."""
    same = all(torch.equal(r.cpu(), e) for r, e in zip(results, expected, strict=True))
    return 0.0 if same else float("inf")


def losses_off(result: Any, expected: Any, dtype: torch.dtype, tight: float) -> float:
    """How far a loss and its gradients are off; 16-bit gradients are rounded to the type once."""
    coarse = ROUNDING.get(dtype, 0.0) + 2 * tight
    smallest = 2.0**-25 if dtype == torch.float16 else 1e-30  # half of the smallest above 0
    gradients = [
        off(r, e, coarse, 0.1 * tight, smallest)
        for r, e in zip(result[1], expected[1], strict=True)
    ]
    return max(off(result[0], expected[0], tight, 0.0), *gradients)


def focal_loss(device: str) -> Iterator[Case]:
    """effdet::sigmoid_focal_loss."""
    for dtype, layout, classes, gamma, smoothing in itertools.product(
        DTYPES, LAYOUTS, (3, 90), (0.0, 0.5, 1.5, 2.0), (0.0, 0.1)
    ):
        targets = torch.randint(-2, classes, (BATCH, ANCHORS), dtype=torch.int32)
        targets[torch.rand(targets.shape) < 0.8] = -1
        scalars = scalar(7.0, dtype), scalar(3.0, dtype)
        settings = (classes, 0.25, gamma, smoothing, True)
        arguments = [levels(classes, dtype, layout), targets, *scalars, *settings]
        moved = on(device, arguments)
        result = torch.ops.effdet.sigmoid_focal_loss(*moved)
        expected = definition("focal_loss")(*in_float64(moved))
        name = f"focal_loss {dtype} {layout} K={classes} gamma={gamma} smoothing={smoothing}"
        tight = 1e-11 if dtype == torch.float64 else 2e-6
        yield name, losses_off(result, expected, dtype, tight)


def random_boxes(count: int) -> Tensor:
    """``[B, count, 4]`` xyxy boxes in 128 pixels."""
    corners = 100 * torch.rand(BATCH, count, 2)
    return torch.cat((corners, corners + 4 + 40 * torch.rand(BATCH, count, 2)), -1)


def random_anchors() -> Tensor:
    """``[A, 4]`` xyxy."""
    corners = 100 * torch.rand(ANCHORS, 2)
    return torch.cat((corners, corners + 8 + 24 * torch.rand(ANCHORS, 2)), -1)


def box_loss(device: str) -> Iterator[Case]:
    """effdet::huber_box_loss."""
    for dtype, layout, delta in itertools.product(DTYPES, LAYOUTS, (0.1, 1.0)):
        matched = torch.randint(-2, 8, (BATCH, ANCHORS), dtype=torch.int32)
        arguments = [levels(4, dtype, layout), random_anchors(), random_boxes(8), matched]
        arguments += [scalar(7.0, dtype), scalar(3.0, dtype), delta, True]
        result = torch.ops.effdet.huber_box_loss(*on(device, arguments))
        # The targets are float32 for every dtype, and logarithms differ in the last bit.
        expected = definition("box_loss")(*in_float64(arguments, exact=(1, 2)))
        yield f"box_loss {dtype} {layout} delta={delta}", losses_off(result, expected, dtype, 1e-5)


def rescale(device: str) -> Iterator[Case]:
    """effdet::rescale_."""
    for dtype, layout, factor in itertools.product(DTYPES, LAYOUTS, (1.0, 0.37)):
        arguments: list[Any] = [
            levels(4, dtype, layout),
            scalar(4 * factor, dtype),
            scalar(4.0, dtype),
        ]
        moved = on(device, arguments)
        torch.ops.effdet.rescale_(*moved)
        definition("rescale")(*arguments)
        yield f"rescale_ {dtype} {layout} factor={factor}", equal(moved[0], arguments[0])


def assignment(device: str) -> Iterator[Case]:
    """effdet::assign_anchors."""
    for count in (0, 1, 8, 100):
        labels = torch.randint(-2, 5, (BATCH, count))
        arguments = (random_anchors(), random_boxes(count), labels, 0.5, 0.5)
        result = torch.ops.effdet.assign_anchors(*on(device, arguments))
        yield f"assign_anchors M={count}", equal(result, definition("assign")(*arguments))


def candidates(device: str) -> Iterator[Case]:
    """effdet::select_candidates; scores and boxes hold a few roundings of exp."""
    for dtype, layout, count in itertools.product(DTYPES[:3], LAYOUTS, (1, 100, 5000)):
        arguments = [levels(11, dtype, layout), levels(4, dtype, layout), random_anchors()]
        arguments += [11, count, 0.05, [2, 7]]
        boxes, scores, *chosen = torch.ops.effdet.select_candidates(*on(device, arguments))
        expected = definition("select_candidates")(*arguments)
        error = max(off(boxes, expected[0], 1e-5, 1e-6), off(scores, expected[1], 1e-6, 1e-6))
        name = f"select_candidates {dtype} {layout} C={count}"
        yield name, max(error, equal(chosen, expected[2:]))


def suppression(device: str) -> Iterator[Case]:
    """effdet::nms; soft scores hold a few roundings of exp, which may change close orders."""
    for method, count, agnostic in itertools.product(
        ("hard", "linear", "gaussian"), (0, 1, 300, 2000), (False, True)
    ):
        boxes, scores = random_boxes(count), torch.rand(BATCH, count).round(decimals=3)
        labels = torch.randint(0, 5, (BATCH, count))
        arguments = (boxes, scores, labels, method, 0.5, 0.5, 0.001, 100, 0, agnostic)
        result = torch.ops.effdet.nms(*on(device, arguments))
        expected = definition("nms")(*arguments)
        error = max(off(result[1], expected[1], 1e-5, 1e-6), equal(result[2:], expected[2:]))
        if method == "hard":
            error = max(error, equal(result, expected))
        yield f"nms {method} C={count} class_agnostic={agnostic}", error


def average(device: str) -> Iterator[Case]:
    """effdet::ema_update_."""
    for dtype, skipped in itertools.product(DTYPES, (None, 0.0, 1.0)):
        values = [torch.randn(n).to(dtype) for n in (1, 7, 4096, 100_003)]
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        averages = [torch.randn(x.shape, dtype=kept) for x in values]
        values.append(torch.tensor(5))
        averages.append(torch.tensor(3))
        updates = torch.tensor([11, 0])
        found_inf = None if skipped is None else torch.tensor(skipped)
        arguments = [averages, values, updates, found_inf, 0.999]
        moved = on(device, arguments)
        torch.ops.effdet.ema_update_(*moved)
        definition("ema")(*arguments)
        error = max(off(m, e, 0.0, 2e-7) for m, e in zip(moved[0], averages, strict=True))
        name = f"ema_update_ {dtype} found_inf={skipped}"
        yield name, max(error, equal([moved[0][-1], moved[2][:1]], [averages[-1], updates[:1]]))
