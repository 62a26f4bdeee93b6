# SPDX-License-Identifier: Apache-2.0
"""Sigmoid focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002), summed over all logits.

For a logit x of probability p = sigmoid(x), with y = 1 where the class is present and else 0::

    p_t = p if y else 1 - p            alpha_t = alpha if y else 1 - alpha
    loss = alpha_t * (1 - p_t)**gamma * CE(x, y * (1 - s) + s / 2)

CE is the binary cross-entropy; the label smoothing s acts inside it only.

Forms to compute with: with z = -x where the class is present and z = x elsewhere (the logit of the
wrong answer), q = sigmoid(z) is 1 - p_t and both cases are one::

    CE = softplus(z) - s / 2 * z        loss = alpha_t * q**gamma * CE
    d loss / d z = alpha_t * q**gamma * (gamma * (1 - q) * CE + q - s / 2)
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.structures import BACKGROUND, IGNORE

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 1.5,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Sum of the focal loss over all anchors and classes; not normalised.

    The loss and its gradient come from one pass over the logits, without a one-hot tensor. The
    gradient is kept in the logits' dtype until the backward pass. Second derivatives are refused.

    Args:
        logits: ``[B, A, K]`` class logits, float16, bfloat16, float32 or float64.
        targets: ``[B, A]`` int64 class indices in [0, K); ``BACKGROUND`` (-1) where every class
            is absent, ``IGNORE`` (-2) where the anchor gives neither loss nor gradient.
        alpha: weight of a present class; an absent one has ``1 - alpha``. In [0, 1].
        gamma: focusing exponent, at least 0; 0 is the weighted cross-entropy.
        label_smoothing: in [0, 1).

    Returns:
        Scalar, float64 for float64 logits, else float32, also under autocast.

    Raises:
        ValueError: for a wrong shape, dtype, device or setting, and for targets out of range if
            they are on the CPU. On other devices and in compiled graphs, where looking at the
            values would stall, targets out of range make the loss NaN.
    """
    _check_settings(alpha, gamma, label_smoothing)
    _check_tensors(logits, targets)
    if targets.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_range(targets, logits.shape[-1])
    need_grad = logits.requires_grad and torch.is_grad_enabled()
    loss: Tensor
    loss, _ = _op(logits, targets, alpha, gamma, label_smoothing, need_grad)
    return loss


def _check_settings(alpha: float, gamma: float, label_smoothing: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma must be finite and at least 0, got {gamma}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")


def _check_tensors(logits: Tensor, targets: Tensor) -> None:
    if logits.dim() != 3 or logits.shape[-1] == 0:
        raise ValueError(f"logits must be [B, A, K] with K > 0, got {list(logits.shape)}")
    if logits.dtype not in _DTYPES:
        raise ValueError(f"logits must be float16, bfloat16, float32 or 64, got {logits.dtype}")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets must be [B, A] = {list(logits.shape[:-1])}, got {list(targets.shape)}"
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"targets must be int64, got {targets.dtype}")
    if targets.device != logits.device:
        raise ValueError(
            f"targets must be on the logits' device {logits.device}, got {targets.device}"
        )


def _check_range(targets: Tensor, num_classes: int) -> None:
    if targets.numel() == 0:
        return
    low, high = (int(value) for value in targets.aminmax())
    if low < IGNORE or high >= num_classes:
        bad = low if low < IGNORE else high
        raise ValueError(
            f"targets must be in [0, {num_classes}), {BACKGROUND} (background) or {IGNORE} "
            f"(ignore), got {bad}"
        )


def reference(
    logits: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    label_smoothing: float,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    """The definition of the operator: loss and gradient for the arguments of the public function.

    Returns:
        The scalar loss, and its gradient ``[B, A, K]`` in the logits' dtype, or ``[0]`` without
        ``need_grad``.
    """
    dtype = _loss_dtype(logits)
    classes = torch.arange(logits.shape[-1], device=targets.device)
    present = targets.unsqueeze(-1) == classes  # [B, A, K]
    x = logits.to(dtype)
    wrong = torch.where(present, -x, x)
    # -logsigmoid(-z) is softplus(z), exact for any z; F.softplus cuts off at 20.
    cross_entropy = -F.logsigmoid(-wrong) - label_smoothing / 2 * wrong
    weight = alpha * present + (1 - alpha) * ~present
    factor = weight * torch.exp(gamma * F.logsigmoid(wrong))
    loss = _by_target(factor * cross_entropy, targets).sum()
    if not need_grad:
        return loss, logits.new_empty(0)
    slope = gamma * torch.sigmoid(-wrong) * cross_entropy + torch.sigmoid(wrong)
    slope = factor * (slope - label_smoothing / 2)
    gradient = _by_target(torch.where(present, -slope, slope), targets)
    return loss, gradient.to(logits.dtype).contiguous()


def _by_target(terms: Tensor, targets: Tensor) -> Tensor:
    """``terms`` ``[B, A, K]``, 0 in ignored rows and NaN where the target is out of range."""
    bad = (targets < IGNORE) | (targets >= terms.shape[-1])
    terms = terms.masked_fill((targets == IGNORE).unsqueeze(-1), 0.0)
    return terms.masked_fill(bad.unsqueeze(-1), float("nan"))


def _loss_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def scale_gradient(gradient: Tensor, grad_output: Tensor) -> Tensor:
    """The kept gradient times the scalar from upstream, rounded once to the gradient's dtype.

    The product is taken in the loss's dtype: a GradScaler's factor is beyond float16's range.
    """
    return (gradient.to(grad_output.dtype) * grad_output).to(gradient.dtype)


_op = torch.library.custom_op("effdet::sigmoid_focal_loss", reference, mutates_args=())
_backward_op = torch.library.custom_op(
    "effdet::sigmoid_focal_loss_backward", scale_gradient, mutates_args=()
)


@_op.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    label_smoothing: float,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    shape = logits.shape if need_grad else (0,)
    return logits.new_empty((), dtype=_loss_dtype(logits)), logits.new_empty(shape)


@_backward_op.register_fake
def _(gradient: Tensor, grad_output: Tensor) -> Tensor:
    return torch.empty_like(gradient)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, gradient = output
    ctx.set_materialize_grads(False)  # none of the gradient's size for the second output
    ctx.save_for_backward(gradient)


def _backward(
    ctx: Any, grad_loss: Tensor | None, grad_gradient: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_gradient is not None:
        _refuse()
    (gradient,) = ctx.saved_tensors
    grad_logits = None if grad_loss is None else _backward_op(gradient, grad_loss)
    return grad_logits, None, None, None, None, None


def _refuse(*_: Any) -> None:
    raise RuntimeError("sigmoid_focal_loss has no second derivative")


_op.register_autograd(_backward, setup_context=_setup_context)
# The saved gradient is an output that depends on the logits, so differentiating it ends up here,
# and is not taken for a constant.
_backward_op.register_autograd(_refuse)
