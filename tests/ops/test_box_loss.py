# SPDX-License-Identifier: Apache-2.0
"""The box loss: worked numbers, invariants, kernel against definition, and the whole chain."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from effdet.boxes import encode_boxes
from effdet.levels import flatten_levels, split_levels
from effdet.ops import huber_box_loss
from effdet.ops.box_loss import box_targets, reference
from tests import golden

OP = torch.ops.effdet.huber_box_loss.default
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
NAN, INF = float("nan"), float("inf")

SHAPES = [(3, 5, 7), (2, 3, 4), (1, 1, 1)]
"""(anchors at a place, height, width) of the example's levels."""
NUM_ANCHORS = sum(anchors * height * width for anchors, height, width in SHAPES)

# An anchor of 10 x 10 around the origin, and the box whose targets are 0, 0.05, 0.1 and 0.3.
ANCHOR = torch.tensor([[-5.0, -5, 5, 5]])
HALF_WIDTH, HALF_HEIGHT = 5 * math.exp(0.1), 5 * math.exp(0.3)
BOX = torch.tensor([[[-HALF_WIDTH, 0.5 - HALF_HEIGHT, HALF_WIDTH, 0.5 + HALF_HEIGHT]]])


def matched(*indices: int) -> Tensor:
    return torch.tensor([indices], dtype=torch.int32)


def by_hand(deltas: list[float], dtype: torch.dtype = torch.float32, **settings: Any) -> Tensor:
    """The loss of these predictions for ``ANCHOR`` and ``BOX``."""
    level = torch.tensor(deltas, dtype=dtype).view(1, 4, 1, 1)
    return huber_box_loss([level], ANCHOR, BOX, matched(0), **settings)


def example(
    dtype: torch.dtype = torch.float32, layout: str = "channels_last", device: str = "cpu"
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Levels, anchors, boxes and matches of 3 images, a third of the anchors matched."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(3, NUM_ANCHORS, 4, generator=generator, dtype=torch.float64)
    anchors, boxes = (20 * torch.rand(n, 4, generator=generator) for n in (NUM_ANCHORS, 15))
    anchors[:, 2:] += anchors[:, :2] + 1
    boxes[:, 2:] += boxes[:, :2] + 1
    index = torch.randint(-9, 5, (3, NUM_ANCHORS), generator=generator, dtype=torch.int32)
    levels = split_levels(flat.to(dtype), SHAPES)
    if layout == "contiguous":
        levels = [level.contiguous() for level in levels]
    elif layout == "mixed":
        levels[0] = levels[0].contiguous()
    elif layout == "strided":
        levels = [torch.stack([level, level], 2)[:, :, 0] for level in levels]
    return (
        [level.to(device) for level in levels],
        anchors.to(device),
        boxes.view(3, 5, 4).to(device),
        index.to(device),
    )


def scalars(dtype: torch.dtype, *values: float, device: str = "cpu") -> list[Tensor]:
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    return [torch.tensor(value, dtype=kind, device=device) for value in values]


def loss_and_gradients(levels: list[Tensor], *rest: Any, **settings: Any) -> tuple[Tensor, Any]:
    levels = [level.detach().requires_grad_() for level in levels]
    loss = huber_box_loss(levels, *rest, **settings)
    return loss.detach(), torch.autograd.grad(loss, levels)


def plain(levels: list[Tensor], anchors: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
    """The loss as one would write it: targets, then torch's huber_loss over what is matched."""
    total = torch.zeros((), dtype=torch.float64)
    for predicted, image_boxes, image_index in zip(flatten_levels(levels, 4), boxes, index):
        rows = image_index >= 0
        targets = encode_boxes(image_boxes[image_index[rows].long()], anchors[rows]).double()
        total = total + torch.nn.functional.huber_loss(
            predicted[rows].double(), targets, reduction="sum", delta=0.1
        )
    return total


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# --- numbers worked by hand ---


def test_loss_is_the_references_on_hand_numbers() -> None:
    # 0 (masked) + 0.05^2 / 2 + 0.1^2 / 2 + 0.1 * 0.3 - 0.1^2 / 2
    loss = by_hand([0.5, 0.0, 0.0, 0.0])
    assert_close(loss, torch.tensor(0.00125 + 0.005 + 0.025), rtol=1e-5, atol=0)
    (line,) = golden.lines("box_loss huber (normaliser 1 pos => /4):")
    expected = float(line.split()[-1])
    assert expected == pytest.approx(0.0078125, rel=1e-6)
    loss = by_hand([0.5, 0.0, 0.0, 0.0], normalizer=4.0)
    assert_close(loss, torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_of_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    half = by_hand([0.5, 0.0, 0.0, 0.0], dtype=dtype)
    assert torch.equal(half, by_hand([0.5, 0.0, 0.0, 0.0]))  # numbers that 16 bits hold


def test_gradient_by_hand() -> None:
    level = torch.zeros(1, 4, 1, 1, requires_grad=True)
    loss = huber_box_loss([level], ANCHOR, BOX, matched(0), normalizer=2.0)
    loss.backward()
    expected = torch.tensor([0.0, -0.05, -0.1, -0.1]) / 2
    assert_close(level.grad.flatten(), expected, rtol=1e-5, atol=0)


def test_delta_is_a_setting() -> None:
    # All square: 0.05^2 / 2 + 0.1^2 / 2 + 0.3^2 / 2
    loss = by_hand([0.0, 0.0, 0.0, 0.0], delta=1.0)
    assert_close(loss, torch.tensor(0.00125 + 0.005 + 0.045), rtol=1e-5, atol=0)


def test_a_perfect_prediction_costs_nothing() -> None:
    _, *rest = example()
    perfect = split_levels(box_targets(*rest), SHAPES)
    loss, gradients = loss_and_gradients(perfect, *rest)
    assert loss.item() < 1e-9
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-5


# --- invariants ---


def test_unmatched_anchors_give_no_loss_and_no_gradient() -> None:
    levels, anchors, boxes, index = example()
    flat = flatten_levels(levels, 4)
    flat[index < 0] = NAN
    loss, gradients = loss_and_gradients(split_levels(flat, SHAPES), anchors, boxes, index)
    assert_close(loss.double(), plain(levels, anchors, boxes, index), rtol=1e-6, atol=0)
    assert (flatten_levels(gradients, 4)[index < 0] == 0).all()
    assert (flatten_levels(gradients, 4)[index >= 0] != 0).all()


def test_a_coordinate_without_an_offset_is_left_out() -> None:
    """The reference's mask: a target of exactly zero counts as background."""
    level = torch.full((1, 4, 1, 1), 0.7, requires_grad=True)
    box = ANCHOR.view(1, 1, 4) + torch.tensor([0.0, 1, 0, 1])
    loss = huber_box_loss([level], ANCHOR, box, matched(0))
    assert_close(loss.detach(), torch.tensor(0.1 * 0.6 - 0.005), rtol=1e-5, atol=0)
    loss.backward()
    assert level.grad.flatten().nonzero().tolist() == [[1]]


def test_batch_is_the_sum_of_its_images() -> None:
    levels, anchors, boxes, index = example()
    singles = [
        huber_box_loss([x[i : i + 1] for x in levels], anchors, boxes[i : i + 1], index[i : i + 1])
        for i in range(3)
    ]
    assert_close(huber_box_loss(levels, anchors, boxes, index), sum(singles))


@pytest.mark.parametrize("layout", ["channels_last", "contiguous", "mixed", "strided"])
def test_equals_the_plain_form_and_its_gradient(layout: str) -> None:
    levels, *rest = example(torch.float64, layout)
    loss, gradients = loss_and_gradients(levels, *rest)
    for level in levels:
        level.requires_grad_()
    expected = plain(levels, *rest)
    assert_close(loss, expected.detach(), rtol=1e-6, atol=0)  # the targets are float32
    expected_gradients = torch.autograd.grad(expected, levels)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [0, 2])
def test_nothing_matched_is_zero(batch: int) -> None:
    levels = [torch.ones(batch, 8, 2, 3), torch.ones(batch, 4, 0, 3)]
    rest = torch.rand(12, 4), torch.zeros(batch, 0, 4), torch.full((batch, 12), -1).int()
    loss, gradients = loss_and_gradients(levels, *rest)
    assert loss.item() == 0
    assert [gradient.shape for gradient in gradients] == [level.shape for level in levels]
    assert not any(gradient.any() for gradient in gradients)


# --- kernel = definition ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous", "mixed"])
@pytest.mark.parametrize("need_grad", [True, False])
def test_kernel_equals_reference(
    need_grad: bool, layout: str, dtype: torch.dtype, device: str
) -> None:
    levels, *rest = example(dtype, layout, device)
    settings = (*scalars(dtype, 37.5, 3.0, device=device), 0.3, need_grad)
    loss, gradients = OP(levels, *rest, *settings)
    expected, expected_gradients = reference(levels, *rest, *settings)
    assert loss.dtype == expected.dtype
    assert_close(loss, expected, rtol=1e-6, atol=0)
    assert len(gradients) == (len(levels) if need_grad else 0)
    for level, found, wanted in zip(levels, gradients, expected_gradients):
        assert found.dtype == dtype
        assert found.stride() == level.stride()
        rounding = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 0)
        assert_close(found, wanted, rtol=rounding, atol=1e-7)


@pytest.mark.parametrize("device", DEVICES)
def test_odd_values_equal_the_reference(device: str) -> None:
    """NaN, infinite, empty, inverted and huge boxes, anchors and predictions."""
    values = torch.tensor([NAN, INF, -INF, 0.0, 1e-30, 3e38, -3e38, 5.0, -5.0])
    generator = torch.Generator().manual_seed(0)

    def odd(*shape: int) -> Tensor:
        pick = torch.randint(0, 9, shape, generator=generator)
        spread = torch.randn(shape, generator=generator) * 10
        return torch.where(torch.rand(shape, generator=generator) < 0.2, values[pick], spread)

    for _ in range(30):
        levels = split_levels(odd(2, NUM_ANCHORS, 4).to(device), SHAPES)
        index = torch.randint(-3, 20, (2, NUM_ANCHORS), generator=generator, dtype=torch.int32)
        rest = odd(NUM_ANCHORS, 4).to(device), odd(2, 20, 4).to(device), index.to(device)
        settings = (*scalars(torch.float32, 3.0, 2.0, device=device), 0.1, True)
        loss, gradients = OP(levels, *rest, *settings)
        expected, expected_gradients = reference(levels, *rest, *settings)
        assert_close(loss, expected, equal_nan=True)
        for found, wanted in zip(gradients, expected_gradients, strict=True):
            # The logarithms of the two may differ in the last bit; of a target near the
            # prediction that is all that is left.
            assert_close(found, wanted, equal_nan=True, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", [OP, reference])
@pytest.mark.parametrize("index", [1, 7, 2**31 - 1])
def test_index_out_of_range_is_nan(index: int, function: Any, device: str) -> None:
    levels = [torch.zeros(1, 4, 1, 2, device=device)]
    anchors, boxes = ANCHOR.repeat(2, 1).to(device), BOX.to(device)
    scale = scalars(torch.float32, 1.0, 1.0, device=device)
    loss, (gradient,) = function(
        levels, anchors, boxes, matched(0, index).to(device), *scale, 0.1, True
    )
    assert loss.isnan()
    assert gradient[..., 0].isfinite().all()
    assert gradient[..., 1].isnan().all()
    empty = boxes[:, :0]
    loss, _ = function(levels, anchors, empty, matched(0, -1).to(device), *scale, 0.1, False)
    assert loss.isnan()


def test_most_negative_index_is_none() -> None:
    loss = huber_box_loss([torch.ones(1, 4, 1, 1)], ANCHOR, BOX, matched(-(2**31)))
    assert loss.item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_any_number_of_threads(dtype: torch.dtype, restored_threads: None) -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(3, 9 * 70 * 50, 4, generator=generator).to(dtype)
    anchors = torch.rand(flat.shape[1], 4, generator=generator) + torch.tensor([0, 0, 1.0, 1])
    boxes = torch.rand(3, 8, 4, generator=generator) + torch.tensor([0, 0, 1.0, 1])
    index = torch.randint(-20, 8, flat.shape[:2], generator=generator, dtype=torch.int32)
    levels = split_levels(flat, [(9, 70, 50)])
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(OP(levels, anchors, boxes, index, *scalars(dtype, 7.0, 1.0), 0.1, True))
    for loss, (gradient,) in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1][0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("need_grad", [True, False])
def test_opcheck(need_grad: bool, device: str) -> None:
    levels, *rest = example(device=device)
    checks = ["test_schema", "test_faketensor", "test_autograd_registration"]
    if need_grad:
        levels = [level.requires_grad_() for level in levels]
    else:
        # With need_grad this would look at the kept gradients after the backward pass has scaled
        # them in place; test_compiles_as_one_graph does what it is for.
        checks.append("test_aot_dispatch_dynamic")
    settings = (*scalars(torch.float32, 3.0, 2.0, device=device), 0.1, need_grad)
    torch.library.opcheck(OP, (levels, *rest, *settings), test_utils=checks)


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_gradcheck(layout: str) -> None:
    levels, *rest = example(torch.float64, layout)

    def loss(*deltas: Tensor) -> Tensor:
        return huber_box_loss(deltas, *rest, normalizer=5.0, grad_scale=3.0)

    small = [level[:, :, :2, :2].contiguous().requires_grad_() for level in levels[1:]]
    places = 2 * 2 * 2 + 1
    rest = [rest[0][:places], rest[1], rest[2][:, :places]]
    assert torch.autograd.gradcheck(loss, small)


# --- autograd, autocast, compile, export ---


def test_any_upstream_gradient_and_scale_give_the_same_gradient() -> None:
    levels, *rest = example()
    _, expected = loss_and_gradients(levels, *rest, normalizer=4.0)
    for scale, upstream in ((None, 1.0), (8.0, 8.0), (8.0, 2.0), (None, 0.25)):
        leaves = [level.detach().requires_grad_() for level in levels]
        loss = huber_box_loss(leaves, *rest, normalizer=4.0, grad_scale=scale)
        for found, wanted in zip(torch.autograd.grad(loss * upstream, leaves), expected):
            assert_close(found, wanted * upstream)


def test_foreseen_scale_keeps_float16_gradients_from_vanishing() -> None:
    level = torch.zeros(1, 4, 1, 1, dtype=torch.float16, requires_grad=True)
    factor = 2.0**16
    loss = huber_box_loss(
        [level], ANCHOR, BOX, matched(0), normalizer=2.0**26, grad_scale=torch.tensor(factor)
    )
    (gradient,) = torch.autograd.grad(loss * factor, level)
    assert gradient.flatten()[1:].all()


def test_second_derivative_is_refused() -> None:
    levels, *rest = example(torch.float64)
    leaves = [level.requires_grad_() for level in levels]
    loss = huber_box_loss(leaves, *rest)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, leaves, create_graph=True)


def test_a_forward_mode_derivative_is_refused_instead_of_zero() -> None:
    levels, *rest = example()
    ones = [torch.ones_like(level) for level in levels]
    with pytest.raises(RuntimeError, match="huber_box_loss has no forward-mode derivative"):
        torch.func.jvp(lambda *x: huber_box_loss(list(x), *rest), tuple(levels), tuple(ones))


def test_nothing_is_kept_without_grad() -> None:
    levels, *rest = example()
    assert not huber_box_loss(levels, *rest).requires_grad
    with torch.no_grad():
        levels = [level.requires_grad_() for level in levels]
        assert not huber_box_loss(levels, *rest).requires_grad


def test_only_some_levels_may_want_a_gradient() -> None:
    levels, *rest = example()
    _, expected = loss_and_gradients(levels, *rest)
    levels[1].requires_grad_()
    (gradient,) = torch.autograd.grad(huber_box_loss(levels, *rest), [levels[1]])
    assert torch.equal(gradient, expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_dtype_also_under_autocast(dtype: torch.dtype) -> None:
    levels, *rest = example(dtype)
    outside, gradients_outside = loss_and_gradients(levels, *rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, gradients_inside = loss_and_gradients(levels, *rest)
    assert inside.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(inside, outside)
    assert all(torch.equal(a, b) for a, b in zip(gradients_inside, gradients_outside, strict=True))


def test_compiles_as_one_graph() -> None:
    levels, *rest = example()
    compiled = torch.compile(huber_box_loss, fullgraph=True, backend="aot_eager")
    expected, expected_gradients = loss_and_gradients(levels, *rest)
    leaves = [level.requires_grad_() for level in levels]
    loss = compiled(leaves, *rest)
    gradients = torch.autograd.grad(loss, leaves)
    assert torch.equal(loss.detach(), expected)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected_gradients, strict=True))


def test_exports_with_a_dynamic_number_of_boxes() -> None:
    class Loss(torch.nn.Module):
        def forward(
            self, deltas: list[Tensor], anchors: Tensor, boxes: Tensor, index: Tensor
        ) -> Tensor:
            return huber_box_loss(deltas, anchors, boxes, index)

    levels, anchors, boxes, index = example()
    rows = torch.export.Dim("rows")
    program = torch.export.export(
        Loss(), (levels, anchors, boxes, index), dynamic_shapes=([None] * 3, None, {1: rows}, None)
    )
    more = torch.cat([boxes, boxes + 1], 1)
    index = torch.where(index >= 0, index + 5, index)
    expected = huber_box_loss(levels, anchors, more, index)
    assert torch.equal(program.module()(levels, anchors, more, index), expected)


# --- mistakes ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": 0.0}, "delta must be .*got 0.0"),
        ({"delta": NAN}, "delta must be .*got nan"),
        ({"deltas": []}, "deltas must be a list"),
        ({"deltas": torch.zeros(2, 8, 3, 3)}, "deltas must be a list"),
        ({"deltas": [torch.zeros(2, 6, 3, 3)]}, r"deltas .*\[2, 6, 3, 3\] at level 0"),
        ({"deltas": [torch.zeros(2, 8, 3)]}, r"deltas .*\[2, 8, 3\]"),
        ({"deltas": [torch.zeros(2, 8, 3, 3).int()]}, "deltas .*torch.int32"),
        (
            {"deltas": [torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3).half()]},
            "one dtype.*float16.*level 1",
        ),
        (
            {"deltas": [torch.zeros(2, 4, 3, 3), torch.zeros(1, 4, 3, 3)]},
            r"deltas .*\[1, 4, 3, 3\] at level 1",
        ),
        ({"anchors": torch.zeros(17, 4)}, r"anchors must be \[18, 4\], got \[17, 4\]"),
        ({"anchors": torch.zeros(18, 4).double()}, "anchors must be .*float32, got .*float64"),
        ({"boxes": torch.zeros(3, 4)}, r"boxes must be .*got \[3, 4\]"),
        ({"boxes": torch.zeros(1, 3, 4)}, r"boxes must be \[2, 3, 4\], got \[1, 3, 4\]"),
        ({"boxes": torch.zeros(2, 3, 4, device="meta")}, "boxes must be on .*cpu, got meta"),
        ({"matched": torch.zeros(2, 17).int()}, r"matched must be \[2, 18\], got \[2, 17\]"),
        ({"matched": torch.zeros(2, 18).long()}, "matched must be torch.int32, got torch.int64"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    values = {
        "deltas": [torch.zeros(2, 8, 3, 3)],
        "anchors": torch.zeros(18, 4),
        "boxes": torch.zeros(2, 3, 4),
        "matched": torch.zeros(2, 18, dtype=torch.int32),
    }
    with pytest.raises(ValueError, match=message):
        huber_box_loss(**(values | change))


def test_the_operator_itself_refuses_what_it_would_misread() -> None:
    levels, anchors, boxes, index = example()
    one = scalars(torch.float32, 1.0, 1.0)
    for arguments in (
        ([], anchors, boxes, index, *one),
        (levels[:2], anchors, boxes, index, *one),
        (levels, anchors[:-1], boxes, index, *one),
        (levels, anchors.double(), boxes, index, *one),
        (levels, anchors, boxes[:2], index, *one),
        (levels, anchors, boxes, index.long(), *one),
        (levels, anchors, boxes, index, one[0], torch.zeros(2)),
        (levels, anchors, boxes, index, torch.tensor(1), one[1]),
        ([level.int() for level in levels], anchors, boxes, index, *one),
        ([*levels[:2], levels[2].half()], anchors, boxes, index, *one),
    ):
        with pytest.raises((RuntimeError, IndexError)):
            OP(*arguments, 0.1, True)
