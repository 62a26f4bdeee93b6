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

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.levels import (
    check_levels,
    flatten_levels,
    num_anchors_of,
    readable,
    split_levels,
)
from effdet.ops import rescale
from effdet.structures import BACKGROUND, IGNORE


def sigmoid_focal_loss(
    logits: Sequence[Tensor],
    targets: Tensor,
    *,
    num_classes: int,
    alpha: float = 0.25,
    gamma: float = 1.5,
    label_smoothing: float = 0.0,
    normalizer: Tensor | float | None = None,
    grad_scale: Tensor | float | None = None,
) -> Tensor:
    """Sum of the focal loss over all anchors and classes, divided by ``normalizer``.

    The loss and its gradient come from one pass over the logits where they lie, without a one-hot
    tensor; the only memory is that of the gradient, which the backward pass hands over. A second
    backward pass, second and forward-mode derivatives are refused (float64 allows any number of
    first ones).

    Args:
        logits: levels ``[B, anchors * num_classes, H, W]`` (see :mod:`effdet.levels`) of one
            dtype, float16, bfloat16, float32 or float64. Contiguous and channels-last levels are
            read in place, others are copied first. On CUDA at most 8 levels, each of fewer than
            2**31 values an image.
        targets: ``[B, A]`` int32 or int64 class indices in [0, num_classes); ``BACKGROUND`` (-1)
            where every class is absent, ``IGNORE`` (-2) where the anchor gives neither loss nor
            gradient.
        num_classes: logits of an anchor, K.
        alpha: weight of a present class; an absent one has ``1 - alpha``. In [0, 1].
        gamma: focusing exponent, at least 0; 0 is the weighted cross-entropy.
        label_smoothing: in [0, 1).
        normalizer: constant the sum is divided by, above 0, such as the number of foreground
            anchors.
        grad_scale: foreseen gradient of the result, such as the loss weight times the GradScaler's
            factor; above 0. The backward pass costs nothing where it holds. Elsewhere it multiplies
            what was stored: float16 gradients that the foreseen scale made too small or too large
            stay lost.

    Returns:
        Scalar, float64 for float64 logits, else float32, also under autocast.

    Raises:
        ValueError: for a wrong shape, dtype, device or setting, and for targets out of range if
            they are on the CPU. On other devices and in compiled graphs, where looking at the
            values would stall, targets out of range make the loss NaN.
        RuntimeError: for a derivative that there is not, and beyond the limits of CUDA.
    """
    _check_settings(alpha, gamma, label_smoothing)
    _check_tensors(logits, targets, num_classes)
    if targets.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_range(targets, num_classes)
    rescale.refuse_forward_mode(logits, "sigmoid_focal_loss")
    need_grad = torch.is_grad_enabled() and any(x.requires_grad for x in logits)
    loss: Tensor
    loss, _ = _op(
        [readable(x) for x in logits],
        _as_int32(targets, num_classes),
        rescale.scalar_like("normalizer", normalizer, logits[0]),
        rescale.scalar_like("grad_scale", grad_scale, logits[0]),
        num_classes,
        alpha,
        gamma,
        label_smoothing,
        need_grad,
    )
    return loss


def _as_int32(targets: Tensor, num_classes: int) -> Tensor:
    if targets.dtype == torch.int32:
        return targets
    # Clamped first: a huge index must not wrap around to a valid one.
    return targets.clamp(IGNORE - 1, num_classes).to(torch.int32)


def _check_settings(alpha: float, gamma: float, label_smoothing: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma must be finite and at least 0, got {gamma}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")


def _check_tensors(logits: Sequence[Tensor], targets: Tensor, num_classes: int) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    check_levels("logits", logits, num_classes)
    first = logits[0]
    expected = [first.shape[0], num_anchors_of(logits, num_classes)]
    if list(targets.shape) != expected:
        raise ValueError(f"targets must be [B, A] = {expected}, got {list(targets.shape)}")
    if targets.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"targets must be int32 or int64, got {targets.dtype}")
    if targets.device != first.device:
        raise ValueError(
            f"targets must be on the logits' device {first.device}, got {targets.device}"
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
    logits: list[Tensor],
    targets: Tensor,
    normalizer: Tensor,
    grad_scale: Tensor,
    num_classes: int,
    alpha: float,
    gamma: float,
    label_smoothing: float,
    need_grad: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The definition of the operator: loss and gradients for the arguments of the public function.

    Returns:
        The scalar loss, and with ``need_grad`` its gradients times ``grad_scale``, in the dtype and
        memory format of the levels.
    """
    x = flatten_levels(logits, num_classes).to(normalizer.dtype)
    present = targets.unsqueeze(-1) == torch.arange(num_classes, device=targets.device)
    wrong = torch.where(present, -x, x)
    # -logsigmoid(-z) is softplus(z), exact for any z; F.softplus cuts off at 20.
    cross_entropy = -F.logsigmoid(-wrong)
    if label_smoothing > 0:  # else an infinite logit would give 0 * inf
        cross_entropy = cross_entropy - label_smoothing / 2 * wrong
    weight = alpha * present + (1 - alpha) * ~present
    factor = weight * torch.exp(gamma * F.logsigmoid(wrong)) if gamma > 0 else weight
    loss = _by_target(factor * cross_entropy, targets).sum() / normalizer
    if not need_grad:
        return loss, []
    slope = gamma * torch.sigmoid(-wrong) * cross_entropy + torch.sigmoid(wrong)
    slope = factor * (slope - label_smoothing / 2)
    gradient = _by_target(torch.where(present, -slope, slope), targets)
    gradient = (gradient * (grad_scale / normalizer)).to(logits[0].dtype)
    shapes = [(level.shape[1] // num_classes, *level.shape[2:]) for level in logits]
    rows = split_levels(gradient, shapes)
    return loss, [torch.empty_like(x).copy_(g) for x, g in zip(logits, rows, strict=True)]


def _by_target(terms: Tensor, targets: Tensor) -> Tensor:
    """``terms`` ``[B, A, K]``, 0 in ignored rows and NaN where the target is out of range."""
    bad = (targets < IGNORE) | (targets >= terms.shape[-1])
    terms = terms.masked_fill((targets == IGNORE).unsqueeze(-1), 0.0)
    return terms.masked_fill(bad.unsqueeze(-1), float("nan"))


_op = torch.library.custom_op("effdet::sigmoid_focal_loss", reference, mutates_args=())


@_op.register_fake
def _(
    logits: list[Tensor],
    targets: Tensor,
    normalizer: Tensor,
    grad_scale: Tensor,
    num_classes: int,
    alpha: float,
    gamma: float,
    label_smoothing: float,
    need_grad: bool,
) -> tuple[Tensor, list[Tensor]]:
    return normalizer.new_empty(()), [torch.empty_like(x) for x in logits] if need_grad else []


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    rescale.keep(ctx, output[1], inputs[3])


def _backward(ctx: Any, grad_loss: Tensor | None, _: Any) -> tuple[Any, ...]:
    gradients = rescale.hand_over(ctx, grad_loss, "sigmoid_focal_loss")
    return gradients, None, None, None, None, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)
