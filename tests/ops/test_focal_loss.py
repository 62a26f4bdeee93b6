# SPDX-License-Identifier: Apache-2.0
"""The focal loss: worked numbers, invariants, kernel against definition, and the whole chain."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.levels import as_one_level, flatten_levels, split_levels
from effdet.ops import sigmoid_focal_loss
from effdet.ops.focal_loss import reference
from effdet.structures import BACKGROUND, IGNORE

OP = torch.ops.effdet.sigmoid_focal_loss.default
RESCALE = torch.ops.effdet.rescale_.default
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
LEVELS = ((9, 5, 3), (9, 2, 2), (9, 1, 1))
"""(anchors, height, width) of three small levels: 180 anchors."""

# Written by the reference implementation for logits -2, -1, 0, 1, 2 (alpha 0.25, gamma 1.5).
GOLDEN = {
    (BACKGROUND, 0.0): (0.0039179, 0.0327684, 0.1837984, 0.6156598, 1.318645),
    (0, 0.0): (0.4395483, 0.2052199, 0.0612661, 0.0109228, 0.001306),
    (BACKGROUND, 0.1): (0.0070045, 0.0379986, 0.1837984, 0.5922197, 1.2566472),
    (0, 0.1): (0.4188824, 0.1974066, 0.0612661, 0.0126662, 0.0023348),
}


def example(
    dtype: torch.dtype = torch.float64, shape: tuple[int, int, int] = (2, 37, 5), scale: float = 3.0
) -> tuple[Tensor, Tensor]:
    """``[B, A, K]`` logits and ``[B, A]`` targets of every kind."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(IGNORE, shape[-1], shape[:2], generator=generator)
    return logits.to(dtype), targets


def levels_of(
    dtype: torch.dtype,
    layout: str,
    shapes: Sequence[tuple[int, int, int]] = LEVELS,
    classes: int = 7,
) -> tuple[list[Tensor], Tensor]:
    """Levels in a memory layout, and int32 targets."""
    anchors = sum(a * h * w for a, h, w in shapes)
    logits, targets = example(dtype, (2, anchors, classes))
    levels = split_levels(logits, shapes)
    return [x.contiguous(memory_format=LAYOUTS[layout]) for x in levels], targets.int()


def arguments(
    levels: list[Tensor], targets: Tensor, classes: int, gamma: float = 1.5, smoothing: float = 0.1
) -> tuple[Any, ...]:
    """Of the operator, with a normaliser of 7 and a foreseen scale of 3."""
    dtype = torch.float64 if levels[0].dtype == torch.float64 else torch.float32
    scalars = (torch.tensor(v, dtype=dtype, device=targets.device) for v in (7.0, 3.0))
    return (levels, targets, *scalars, classes, 0.25, gamma, smoothing, True)


def focal(logits: Tensor, targets: Tensor, **settings: Any) -> Tensor:
    """The loss of ``[B, A, K]`` logits."""
    return sigmoid_focal_loss(
        as_one_level(logits), targets, num_classes=logits.shape[-1], **settings
    )


def textbook(
    logits: Tensor, targets: Tensor, alpha: float, gamma: float, label_smoothing: float
) -> Tensor:
    """The equation as papers print it, with a one-hot tensor."""
    one_hot = F.one_hot(targets.clamp(min=0), logits.shape[-1]) * (targets >= 0).unsqueeze(-1)
    y = one_hot.to(logits.dtype)
    p = logits.sigmoid()
    p_t = p * y + (1 - p) * (1 - y)
    alpha_t = alpha * y + (1 - alpha) * (1 - y)
    smoothed = y * (1 - label_smoothing) + 0.5 * label_smoothing
    terms = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    terms = alpha_t * (1 - p_t) ** gamma * terms
    return terms[targets != IGNORE].sum()


def loss_and_gradient(logits: Tensor, targets: Tensor, **settings: float) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    loss = focal(logits, targets, **settings)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# --- numbers worked by hand ---


@pytest.mark.parametrize(("target", "label_smoothing"), GOLDEN)
def test_published_values(target: int, label_smoothing: float) -> None:
    for x, expected in zip((-2.0, -1.0, 0.0, 1.0, 2.0), GOLDEN[target, label_smoothing]):
        loss = focal(
            torch.tensor([[[x]]]), torch.tensor([[target]]), label_smoothing=label_smoothing
        )
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_even_odds_by_hand() -> None:
    # p = 1/2 everywhere: one present class 0.3 * 0.5**2 * ln 2, two absent ones 0.7 * 0.5**2 * ln 2
    loss = focal(torch.zeros(1, 1, 3), torch.tensor([[1]]), alpha=0.3, gamma=2.0)
    assert loss.item() == pytest.approx((0.3 + 2 * 0.7) * 0.25 * 0.6931472, abs=1e-6)


def test_gradient_by_hand() -> None:
    # gamma 0 is the weighted cross-entropy, whose gradient is alpha_t * (p - y)
    _, gradient = loss_and_gradient(torch.zeros(1, 1, 2), torch.tensor([[1]]), alpha=0.3, gamma=0.0)
    torch.testing.assert_close(gradient, torch.tensor([[[0.7 * 0.5, 0.3 * -0.5]]]))


# --- invariants ---


def test_ignored_anchor_gives_no_loss_and_no_gradient() -> None:
    logits, targets = example()
    logits[targets == IGNORE] = torch.nan
    loss, gradient = loss_and_gradient(logits, targets)
    kept = targets != IGNORE
    alone, _ = loss_and_gradient(logits[kept][None], targets[kept][None])
    torch.testing.assert_close(loss, alone)
    assert (gradient[~kept] == 0).all()


def test_all_ignored_is_zero() -> None:
    logits, _ = example()
    loss, gradient = loss_and_gradient(logits, torch.full((2, 37), IGNORE))
    assert loss.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3)])
def test_empty_input_is_zero(shape: tuple[int, int, int]) -> None:
    loss, gradient = loss_and_gradient(torch.empty(shape), torch.empty(shape[:2], dtype=torch.long))
    assert loss.item() == 0
    assert gradient.shape == shape


def test_batch_is_the_sum_of_its_images() -> None:
    logits, targets = example()
    singles = [focal(x[None], t[None]) for x, t in zip(logits, targets)]
    torch.testing.assert_close(focal(logits, targets), sum(singles))


def test_normalizer_divides_loss_and_gradient() -> None:
    logits, targets = example()
    loss, gradient = loss_and_gradient(logits, targets)
    for normalizer in (8.0, torch.tensor(8.0)):
        divided, smaller = loss_and_gradient(logits, targets, normalizer=normalizer)
        torch.testing.assert_close(divided, loss / 8)
        torch.testing.assert_close(smaller, gradient / 8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_levels_are_the_same_as_their_rows(layout: str) -> None:
    levels, targets = levels_of(torch.float64, layout)
    flat = flatten_levels(levels, 7)
    loss, gradient = loss_and_gradient(flat, targets)
    for level in levels:
        level.requires_grad_()
    by_levels = sigmoid_focal_loss(levels, targets, num_classes=7)
    gradients = torch.autograd.grad(by_levels, levels)
    torch.testing.assert_close(by_levels.detach(), loss)
    torch.testing.assert_close(flatten_levels(gradients, 7), gradient)


def test_levels_in_other_layouts_are_copied() -> None:
    levels, targets = levels_of(torch.float64, "contiguous")
    wide = [torch.cat([x, x], 3)[..., ::2].requires_grad_() for x in levels[:1]]
    expected = sigmoid_focal_loss([wide[0].contiguous()], targets[:, :135], num_classes=7)
    assert torch.equal(sigmoid_focal_loss(wide, targets[:, :135], num_classes=7), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.99, 1.5, 2.0, 3.7])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_equals_the_textbook_and_its_gradient(gamma: float, label_smoothing: float) -> None:
    logits, targets = example()
    settings = {"alpha": 0.3, "gamma": gamma, "label_smoothing": label_smoothing}
    loss, gradient = loss_and_gradient(logits, targets, **settings)
    logits.requires_grad_()
    expected = textbook(logits, targets, **settings)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [OP, reference])
def test_extreme_logits_stay_finite(function: Any, dtype: torch.dtype, gamma: float) -> None:
    logits = torch.tensor([[[-1e4, 1e4, -100.0, 100.0, -30.0, 30.0]] * 7], dtype=dtype)
    targets = torch.tensor([[BACKGROUND, 0, 1, 2, 3, 4, 5]], dtype=torch.int32)
    loss, (gradient,) = function(*arguments(as_one_level(logits), targets, 6, gamma))
    assert loss.isfinite()
    assert gradient.isfinite().all()
    # wrong by 1e4 with all weight: alpha_t * |x| (1 - smoothing / 2)
    exact, _ = reference(*arguments(as_one_level(logits.double()), targets, 6, gamma))
    torch.testing.assert_close(loss, exact.to(loss.dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize("function", [OP, reference])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf])
@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0])
def test_nan_and_infinity_stay_in_their_place(
    function: Any, dtype: torch.dtype, layout: str, value: float, gamma: float
) -> None:
    levels, targets = levels_of(dtype, layout)
    targets[:] = BACKGROUND
    levels[0][1, 8, 2, 1] = value
    loss, gradients = function(*arguments(levels, targets, 7, gamma, smoothing=0.0))
    assert loss.isnan() if value != value else loss.isinf()
    finite = gradients[0].isfinite()
    assert not finite[1, 8, 2, 1]
    finite[1, 8, 2, 1] = True
    assert finite.all()
    assert all(gradient.isfinite().all() for gradient in gradients[1:])


@pytest.mark.parametrize("function", [OP, reference])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
def test_a_class_masked_with_minus_infinity_costs_nothing(
    function: Any, dtype: torch.dtype, gamma: float
) -> None:
    logits, targets = example(dtype)
    targets = targets.clamp(max=3).int()
    logits[..., 4] = -torch.inf
    loss, (gradient,) = function(*arguments(as_one_level(logits), targets, 5, gamma, 0.0))
    rest = arguments(as_one_level(logits[..., :4].contiguous()), targets, 4, gamma, 0.0)
    expected, _ = function(*rest)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert not flatten_levels([gradient], 5)[..., 4].any()


@pytest.mark.parametrize("function", [OP, reference])
def test_a_loss_beyond_float32_is_infinite(function: Any) -> None:
    levels, targets = levels_of(torch.float32, "contiguous")
    normalizer, one = torch.tensor(1e-38), torch.tensor(1.0)
    loss, _ = function(levels, targets, normalizer, one, 7, 0.25, 1.5, 0.0, False)
    assert loss.isinf()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sure_present_class_does_not_hide_the_others(layout: str) -> None:
    levels, targets = levels_of(torch.float32, layout)
    targets[:] = BACKGROUND
    targets[0, 3] = 2
    levels[0][0, 3 * 7 + 2, 0, 0] = 3e38
    changed = [x.double() for x in levels]
    expected, _ = reference(*arguments(changed, targets, 7, smoothing=0.0))
    loss, _ = OP(*arguments(levels, targets, 7, smoothing=0.0))
    torch.testing.assert_close(loss.double(), expected, rtol=3e-7, atol=0)


def test_nan_logit_gives_nan() -> None:
    logits, targets = example()
    logits[0, targets[0] != IGNORE] = torch.nan
    assert focal(logits, targets).isnan()


# --- kernel = definition ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [1, 7, 90])
def test_kernel_equals_reference(
    dtype: torch.dtype, layout: str, gamma: float, smoothing: float, classes: int, device: str
) -> None:
    levels, targets = levels_of(dtype, layout, classes=classes)
    levels, targets = [x.to(device) for x in levels], targets.to(device)
    loss, gradients = OP(*arguments(levels, targets, classes, gamma, smoothing))
    exact = [x.double() for x in levels]
    expected, exact_gradients = reference(*arguments(exact, targets, classes, gamma, smoothing))
    tight = 1e-12 if dtype == torch.float64 else 3e-7
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=tight, atol=0)
    close = {
        torch.float64: {"rtol": 1e-11, "atol": 1e-13},
        torch.float32: {"rtol": 5e-6, "atol": 1e-7},
        torch.float16: {"rtol": 2e-3, "atol": 1e-6},
        torch.bfloat16: {"rtol": 1e-2, "atol": 1e-6},
    }[dtype]
    for level, gradient, wanted in zip(levels, gradients, exact_gradients, strict=True):
        assert gradient.dtype == dtype
        assert gradient.stride() == level.stride()
        torch.testing.assert_close(gradient.double(), wanted, **close)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_of_ignored_anchors_and_long_levels(layout: str) -> None:
    levels, targets = levels_of(torch.float32, layout, ((3, 40, 41), (1, 7, 1)), classes=11)
    targets[:, 100:900] = IGNORE
    targets[1, 1500:] = IGNORE
    loss, gradients = OP(*arguments(levels, targets, 11))
    exact = [x.double() for x in levels]
    expected, wanted = reference(*arguments(exact, targets, 11))
    torch.testing.assert_close(loss.double(), expected, rtol=3e-7, atol=0)
    found = flatten_levels(gradients, 11)
    torch.testing.assert_close(found.double(), flatten_levels(wanted, 11), rtol=5e-6, atol=1e-7)
    assert not found[targets == IGNORE].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("target", [5, 2**31 - 1, -3, -(2**31)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_target_out_of_range_is_nan_in_kernel_and_reference(
    target: int, layout: str, device: str
) -> None:
    logits = torch.zeros(1, 2 * 5, 1, 1, device=device).contiguous(memory_format=LAYOUTS[layout])
    targets = torch.tensor([[0, target]], device=device, dtype=torch.int32)
    for function in (OP, reference):
        loss, (gradient,) = function(*arguments([logits], targets, 5))
        assert loss.isnan()
        assert gradient[0, :5].isfinite().all()
        assert gradient[0, 5:].isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("need_grad", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(need_grad: bool, layout: str, device: str) -> None:
    levels, targets = levels_of(torch.float32, layout)
    levels, targets = [x.to(device) for x in levels], targets.to(device)
    checks = ["test_schema", "test_faketensor", "test_autograd_registration"]
    if need_grad:
        for level in levels:
            level.requires_grad_()
    else:
        # With need_grad this would look at the kept gradients after the backward pass has scaled
        # them in place; test_compiles_as_one_graph does what it is for.
        checks.append("test_aot_dispatch_dynamic")
    values = (*arguments(levels, targets, 7)[:-1], need_grad)
    torch.library.opcheck(OP, values, test_utils=checks)
    scalars = (torch.tensor(v, device=device) for v in (2.0, 3.0))
    torch.library.opcheck(RESCALE, ([x.detach() for x in levels], *scalars))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
def test_gradcheck(gamma: float) -> None:
    logits, targets = example(shape=(1, 9, 4))

    def loss(x: Tensor) -> Tensor:
        return focal(x, targets, gamma=gamma, label_smoothing=0.1)

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_on_any_number_of_threads(
    dtype: torch.dtype, layout: str, restored_threads: None
) -> None:
    levels, targets = levels_of(dtype, layout, ((9, 20, 17), (9, 3, 3)), classes=20)
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(OP(*arguments(levels, targets, 20)))
    for loss, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][1], strict=True))


@pytest.mark.gpu
def test_cuda_repeats_to_the_bit_without_a_sync() -> None:
    logits, targets = (x.cuda() for x in example(torch.float16, (8, 49104, 90)))
    values = arguments(as_one_level(logits), targets.int(), 90)
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [OP(*values) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for loss, (gradient,) in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1][0])


# --- autograd, autocast, compile, export ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("foreseen", [None, 0.125, 5.0, torch.full((1,), 5.0)])
def test_upstream_gradient(dtype: torch.dtype, foreseen: Tensor | float | None) -> None:
    logits, targets = example(dtype)
    _, gradient = loss_and_gradient(logits, targets)
    logits.requires_grad_()
    loss = focal(logits, targets, grad_scale=foreseen) / 8
    (scaled,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(scaled, gradient / 8)


def test_no_gradient_from_upstream_is_none() -> None:
    logits, targets = example(torch.float32)
    logits.requires_grad_()
    for foreseen in (torch.tensor(0.0), 1.0):
        loss = focal(logits, targets, grad_scale=foreseen)
        (gradient,) = torch.autograd.grad(loss * 0.0, logits)
        assert not gradient.any()


def test_the_foreseen_gradient_is_handed_over_untouched() -> None:
    logits, targets = example(torch.float32)
    logits.requires_grad_()
    scale = torch.tensor(2.0**10)
    loss = focal(logits, targets, grad_scale=scale)
    values = arguments(as_one_level(logits.detach()), targets.int(), 5, smoothing=0.0)
    one = torch.tensor(1.0)
    _, (kept,) = OP(values[0], values[1], one, scale, *values[4:])
    (gradient,) = torch.autograd.grad(loss * scale, logits)
    assert torch.equal(gradient, flatten_levels([kept], 5))


def test_a_second_backward_pass_is_refused_except_in_double_precision() -> None:
    logits, targets = example(torch.float32)
    logits.requires_grad_()
    loss = focal(logits, targets)
    torch.autograd.grad(loss, logits, retain_graph=True)
    with pytest.raises(RuntimeError, match="first backward pass has taken the gradient"):
        torch.autograd.grad(loss, logits)
    logits, targets = example()
    _, gradient = loss_and_gradient(logits, targets)
    logits.requires_grad_()
    loss = focal(logits, targets) / 8
    for _ in range(2):
        (scaled,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(scaled, gradient / 8)


def test_scaler_factor_beyond_float16_does_not_overflow() -> None:
    logits = torch.full((1, 1, 1), -4.0, dtype=torch.float16, requires_grad=True)
    loss = focal(logits, torch.tensor([[BACKGROUND]]))
    (gradient,) = torch.autograd.grad(loss * 2.0**17, logits)
    assert gradient.isfinite().all()
    assert gradient.item() > 0


def test_a_foreseen_scale_keeps_small_float16_gradients() -> None:
    logits = torch.full((1, 1, 1), -8.0, dtype=torch.float16, requires_grad=True)
    targets = torch.tensor([[BACKGROUND]])
    (lost,) = torch.autograd.grad(focal(logits, targets) * 2.0**16, logits)
    loss = focal(logits, targets, grad_scale=2.0**16) * 2.0**16
    (kept,) = torch.autograd.grad(loss, logits)
    assert lost.item() == 0
    assert kept.item() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivative_is_refused(dtype: torch.dtype) -> None:
    logits, targets = example(dtype)
    logits.requires_grad_()
    loss = focal(logits, targets)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, logits, create_graph=True)


def test_a_forward_mode_derivative_is_refused_instead_of_zero() -> None:
    logits, targets = example()
    with pytest.raises(RuntimeError, match="sigmoid_focal_loss has no forward-mode derivative"):
        torch.func.jvp(lambda x: focal(x, targets), (logits,), (torch.ones_like(logits),))


def test_nothing_is_kept_without_grad() -> None:
    logits, targets = example()
    assert not focal(logits, targets).requires_grad
    with torch.no_grad():
        assert not focal(logits.requires_grad_(), targets).requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_dtype_also_under_autocast(dtype: torch.dtype) -> None:
    logits, targets = example(dtype)
    outside, gradient_outside = loss_and_gradient(logits, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, gradient_inside = loss_and_gradient(logits, targets)
    assert inside.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient_inside.dtype == dtype
    assert torch.equal(inside, outside)
    assert torch.equal(gradient_inside, gradient_outside)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_as_one_graph(backend: str) -> None:
    logits, targets = example(torch.float32)
    compiled = torch.compile(focal, fullgraph=True, backend=backend)
    expected, expected_gradient = loss_and_gradient(logits, targets)
    logits.requires_grad_()
    for upstream in (1.0, 3.0):
        loss = compiled(logits, targets)
        (gradient,) = torch.autograd.grad(loss * upstream, logits)
        assert torch.equal(loss.detach(), expected)
        torch.testing.assert_close(gradient, upstream * expected_gradient)


def test_exports_with_a_dynamic_number_of_anchors() -> None:
    class Loss(torch.nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            return focal(logits, targets)

    anchors = torch.export.Dim("anchors")
    program = torch.export.export(
        Loss(), example(), dynamic_shapes={"logits": {1: anchors}, "targets": {1: anchors}}
    )
    logits, targets = example(shape=(2, 11, 5))
    assert torch.equal(program.module()(logits, targets), focal(logits, targets))


# --- mistakes ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.5}, "alpha must be in .*1.5"),
        ({"gamma": -1.0}, "gamma must be .*-1.0"),
        ({"gamma": float("nan")}, "gamma must be .*nan"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in .*1.0"),
        ({"num_classes": 0}, "num_classes must be .*0"),
        ({"num_classes": 3}, r"\[B, anchors \* 3, H, W\], got \[2, 8, 3, 1\] at level 0"),
        ({"logits": torch.zeros(2, 8, 3, 1)}, "logits must be a list"),
        ({"logits": []}, "logits must be a list"),
        ({"logits": [torch.zeros(2, 3)]}, r"got \[2, 3\]"),
        ({"logits": [torch.zeros(2, 8, 3, 1, dtype=torch.int64)]}, "torch.int64"),
        (
            {"logits": [torch.zeros(2, 4, 3, 1), torch.zeros(2, 4, 3, 1).double()]},
            "one dtype.*float32.*float64.* level 1",
        ),
        ({"normalizer": torch.ones(2)}, r"normalizer must be one number, got \[2\]"),
        ({"grad_scale": 0.0}, "grad_scale must be finite and above 0, got 0.0"),
        ({"grad_scale": torch.ones(2, 1)}, r"grad_scale must be one number, got \[2, 1\]"),
        ({"grad_scale": torch.ones((), device="meta")}, "grad_scale must be .* cpu, got meta"),
        ({"targets": torch.zeros(2, 4, dtype=torch.int64)}, r"\[2, 6\], got \[2, 4\]"),
        ({"targets": torch.zeros(2, 6)}, "int64, got torch.float32"),
        ({"targets": torch.zeros(2, 6, dtype=torch.int64, device="meta")}, "cpu, got meta"),
        ({"targets": torch.full((2, 6), 4)}, r"\[0, 4\).*got 4"),
        ({"targets": torch.full((2, 6), 2**40)}, r"\[0, 4\).*got 1099511627776"),
        ({"targets": torch.full((2, 6), -3, dtype=torch.int32)}, "got -3"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {
        "logits": [torch.zeros(2, 8, 3, 1)],
        "targets": torch.zeros(2, 6, dtype=torch.int64),
        "num_classes": 4,
    }
    with pytest.raises(ValueError, match=message):
        sigmoid_focal_loss(**(values | change))


# --- size ---


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_than_two_to_the_31_logits(layout: str) -> None:
    """4.3 GB of logits in one level; the last anchor has the last class."""
    level = torch.zeros(1, 64, 8192, 4097, dtype=torch.bfloat16)
    level = level.contiguous(memory_format=LAYOUTS[layout])
    targets = torch.full((1, 8192 * 4097), BACKGROUND, dtype=torch.int32)
    level[0, 63, -1, -1], targets[0, -1] = -8.0, 63
    assert level.numel() > 2**31
    level.requires_grad_()
    loss = sigmoid_focal_loss([level], targets, num_classes=64, alpha=0.25, gamma=2.0)
    absent = 0.75 * 0.25 * 0.6931471805599453
    present = 0.25 * (1 - 0.00033535) ** 2 * 8.00033541
    expected = (level.numel() - 1) * absent + present
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, level)
    last = gradient[0, :, -1, -1].tolist()
    assert all(value > 0 for value in last[:63])
    assert last[63] < 0
