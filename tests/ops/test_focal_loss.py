# SPDX-License-Identifier: Apache-2.0
"""The focal loss: worked numbers, invariants, kernel against definition, and the whole chain."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.ops import sigmoid_focal_loss
from effdet.ops.focal_loss import reference
from effdet.structures import BACKGROUND, IGNORE

OP = torch.ops.effdet.sigmoid_focal_loss.default
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))

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
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(IGNORE, shape[-1], shape[:2], generator=generator)
    return logits.to(dtype), targets


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
    loss = sigmoid_focal_loss(logits, targets, **settings)
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
        loss = sigmoid_focal_loss(
            torch.tensor([[[x]]]), torch.tensor([[target]]), label_smoothing=label_smoothing
        )
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_even_odds_by_hand() -> None:
    # p = 1/2 everywhere: one present class 0.3 * 0.5**2 * ln 2, two absent ones 0.7 * 0.5**2 * ln 2
    loss = sigmoid_focal_loss(torch.zeros(1, 1, 3), torch.tensor([[1]]), alpha=0.3, gamma=2.0)
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
    singles = [sigmoid_focal_loss(x[None], t[None]) for x, t in zip(logits, targets)]
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets), sum(singles))


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
def test_extreme_logits_stay_finite(function, dtype: torch.dtype, gamma: float) -> None:
    logits = torch.tensor([[[-1e4, 1e4, -100.0, 100.0, -30.0, 30.0]] * 7], dtype=dtype)
    targets = torch.tensor([[BACKGROUND, 0, 1, 2, 3, 4, 5]])
    loss, gradient = function(logits, targets, 0.25, gamma, 0.1, True)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    # wrong by 1e4 with all weight: alpha_t * |x| (1 - smoothing / 2)
    exact, _ = reference(logits.double(), targets, 0.25, gamma, 0.1, True)
    torch.testing.assert_close(loss, exact.to(loss.dtype), rtol=1e-6, atol=0)


def test_nan_logit_gives_nan() -> None:
    logits, targets = example()
    logits[0, targets[0] != IGNORE] = torch.nan
    assert sigmoid_focal_loss(logits, targets).isnan()


# --- kernel = definition ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "channels first"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
def test_kernel_equals_reference(
    dtype: torch.dtype, layout: str, gamma: float, device: str
) -> None:
    logits, targets = (x.to(device) for x in example(dtype, (3, 140, 7)))
    if layout == "transposed":
        logits, targets = logits.transpose(0, 1), targets.transpose(0, 1)
    elif layout == "strided":
        logits, targets = logits[:, ::2, 1:], targets[:, ::2].clamp(max=5)
    elif layout == "channels first":
        logits = logits.transpose(1, 2).contiguous().transpose(1, 2)
    loss, gradient = OP(logits, targets, 0.25, gamma, 0.1, True)
    expected, expected_gradient = reference(logits, targets, 0.25, gamma, 0.1, True)
    tight = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(loss, expected, rtol=tight, atol=0)
    assert gradient.dtype == dtype
    assert gradient.is_contiguous()
    if dtype in (torch.float16, torch.bfloat16):
        torch.testing.assert_close(gradient, expected_gradient)
    else:
        torch.testing.assert_close(gradient, expected_gradient, rtol=3 * tight, atol=3 * tight)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("target", [5, 2**40, -3])
def test_target_out_of_range_is_nan_in_kernel_and_reference(target: int, device: str) -> None:
    logits = torch.zeros(1, 2, 5, device=device)
    targets = torch.tensor([[0, target]], device=device)
    for function in (OP, reference):
        loss, gradient = function(logits, targets, 0.25, 1.5, 0.0, True)
        assert loss.isnan()
        assert gradient[0, 0].isfinite().all()
        assert gradient[0, 1].isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("need_grad", [True, False])
def test_opcheck(need_grad: bool, device: str) -> None:
    logits, targets = (x.to(device) for x in example(torch.float32))
    checks = ["test_schema", "test_faketensor", "test_autograd_registration"]
    if need_grad:
        logits.requires_grad_()
    else:
        # Differentiates every output, the kept gradient too, which is refused with need_grad.
        checks.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(OP, (logits, targets, 0.25, 1.5, 0.1, need_grad), test_utils=checks)
    backward = torch.ops.effdet.sigmoid_focal_loss_backward.default
    torch.library.opcheck(backward, (logits.detach(), torch.tensor(2.0, device=device)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
def test_gradcheck(gamma: float) -> None:
    logits, targets = example(shape=(1, 9, 4))

    def loss(x: Tensor) -> Tensor:
        return sigmoid_focal_loss(x, targets, gamma=gamma, label_smoothing=0.1)

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_any_number_of_threads(dtype: torch.dtype, restored_threads: None) -> None:
    logits, targets = example(dtype, (2, 3001, 20))
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(OP(logits, targets, 0.25, 1.5, 0.0, True))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.gpu
def test_cuda_repeats_to_the_bit_without_a_sync() -> None:
    logits, targets = (x.cuda() for x in example(torch.float16, (8, 49104, 90)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [OP(logits, targets, 0.25, 1.5, 0.0, True) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


# --- autograd, autocast, compile, export ---


def test_upstream_gradient_and_retained_graph() -> None:
    logits, targets = example()
    _, gradient = loss_and_gradient(logits, targets)
    logits.requires_grad_()
    loss = sigmoid_focal_loss(logits, targets) / 8
    for _ in range(2):
        (scaled,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(scaled, gradient / 8)


def test_scaler_factor_beyond_float16_does_not_overflow() -> None:
    logits = torch.full((1, 1, 1), -4.0, dtype=torch.float16, requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([[BACKGROUND]]))
    (gradient,) = torch.autograd.grad(loss * 2.0**17, logits)
    assert gradient.isfinite().all()
    assert gradient.item() > 0


def test_second_derivative_is_refused() -> None:
    logits, targets = example()
    logits.requires_grad_()
    loss = sigmoid_focal_loss(logits, targets)
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        (loss + gradient.norm()).backward()


def test_nothing_is_kept_without_grad() -> None:
    logits, targets = example()
    assert not sigmoid_focal_loss(logits, targets).requires_grad
    with torch.no_grad():
        assert not sigmoid_focal_loss(logits.requires_grad_(), targets).requires_grad


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


def test_compiles_as_one_graph() -> None:
    logits, targets = example(torch.float32)
    compiled = torch.compile(sigmoid_focal_loss, fullgraph=True, backend="aot_eager")
    expected, expected_gradient = loss_and_gradient(logits, targets)
    logits.requires_grad_()
    loss = compiled(logits, targets)
    loss.backward()
    assert torch.equal(loss.detach(), expected)
    assert torch.equal(logits.grad, expected_gradient)


def test_exports_with_a_dynamic_number_of_anchors() -> None:
    class Loss(torch.nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            return sigmoid_focal_loss(logits, targets)

    anchors = torch.export.Dim("anchors")
    program = torch.export.export(
        Loss(), example(), dynamic_shapes={"logits": {1: anchors}, "targets": {1: anchors}}
    )
    logits, targets = example(shape=(2, 11, 5))
    expected = sigmoid_focal_loss(logits, targets)
    assert torch.equal(program.module()(logits, targets), expected)


# --- mistakes ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.5}, "alpha must be in .*1.5"),
        ({"gamma": -1.0}, "gamma must be .*-1.0"),
        ({"gamma": float("nan")}, "gamma must be .*nan"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in .*1.0"),
        ({"logits": torch.zeros(2, 3)}, r"\[B, A, K\].*\[2, 3\]"),
        ({"logits": torch.zeros(2, 3, 0)}, r"K > 0, got \[2, 3, 0\]"),
        ({"logits": torch.zeros(2, 3, 4, dtype=torch.int64)}, "torch.int64"),
        ({"targets": torch.zeros(2, 4, dtype=torch.int64)}, r"\[2, 3\], got \[2, 4\]"),
        ({"targets": torch.zeros(2, 3)}, "int64, got torch.float32"),
        ({"targets": torch.zeros(2, 3, dtype=torch.int64, device="meta")}, "cpu, got meta"),
        ({"targets": torch.full((2, 3), 4)}, r"\[0, 4\).*got 4"),
        ({"targets": torch.full((2, 3), -3)}, "got -3"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    values = {"logits": torch.zeros(2, 3, 4), "targets": torch.zeros(2, 3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        sigmoid_focal_loss(**(values | change))
