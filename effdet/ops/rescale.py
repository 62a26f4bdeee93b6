# SPDX-License-Identifier: Apache-2.0
"""Gradients that were computed together with a loss, and the scale that comes from upstream.

A loss whose gradient costs next to nothing beside it computes both in one pass, before the gradient
from upstream is known. That gradient is nearly always known in advance all the same: the weight of
the loss times the factor of the GradScaler. So the gradients are made with a foreseen scale
(``grad_scale``), and the backward pass only has to do something where it turns out otherwise.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def reference(gradients: list[Tensor], grad_output: Tensor, grad_scale: Tensor) -> None:
    """The definition of ``effdet::rescale_``: ``gradients *= grad_output / grad_scale``.

    Equal scalars, also 0 and 0, leave the gradients as they are. The product is taken in the
    scalars' dtype and rounded once to the gradients'.
    """
    ratio = torch.where(grad_output == grad_scale, 1.0, grad_output / grad_scale)
    for gradient in gradients:
        gradient.copy_(gradient.to(ratio.dtype) * ratio)


_op = torch.library.custom_op("effdet::rescale_", reference, mutates_args=("gradients",))


@_op.register_fake
def _(gradients: list[Tensor], grad_output: Tensor, grad_scale: Tensor) -> None:
    return None


def scalar_like(name: str, value: Tensor | float | None, logits: Tensor) -> Tensor:
    """``value`` (None: 1) as a scalar tensor of the loss's dtype on the logits' device.

    Raises:
        ValueError: for a number that is not finite and above 0 (of a tensor this is not looked at,
            which could stall), and for a tensor of more than one number or on another device.
    """
    dtype = loss_dtype(logits)
    if not isinstance(value, Tensor):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and above 0, got {value}")
        return torch.full((), 1.0 if value is None else value, dtype=dtype, device=logits.device)
    if value.numel() != 1:
        raise ValueError(f"{name} must be one number, got {list(value.shape)}")
    if value.device != logits.device:
        raise ValueError(
            f"{name} must be on the predictions' device {logits.device}, got {value.device}"
        )
    return value.detach().to(dtype).reshape(())


def loss_dtype(logits: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def refuse_forward_mode(levels: Sequence[Tensor], loss_name: str) -> None:
    """Raise where a forward-mode derivative is asked for; torch's own answer would be 0."""
    if torch.compiler.is_compiling():
        return
    if any(forward_ad.unpack_dual(x).tangent is not None for x in levels):
        raise RuntimeError(f"{loss_name} has no forward-mode derivative; use backward")


def keep(ctx: Any, gradients: Sequence[Tensor], grad_scale: Tensor) -> None:
    """For a ``setup_context``: put the gradients by until the backward pass."""
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*gradients)
    ctx.save_for_backward(grad_scale, *gradients)
    ctx.num_gradients, ctx.handed_over = len(gradients), False


def hand_over(ctx: Any, grad_loss: Tensor | None, loss_name: str) -> list[Tensor | None]:
    """For a ``backward``: the kept gradients times what came from upstream, without a copy.

    Raises:
        RuntimeError: for a second derivative, and for a second backward pass through the same
            graph: the first one has taken the gradients. In float64, which is for checking, a
            copy is handed over, and any number of passes are possible.
    """
    if grad_loss is None:
        return [None] * ctx.num_gradients
    if torch.is_grad_enabled():
        raise RuntimeError(f"{loss_name} has no second derivative")
    if ctx.handed_over:
        raise RuntimeError(
            f"{loss_name}: the first backward pass has taken the gradient; compute the loss again "
            "for a second one"
        )
    grad_scale, *gradients = ctx.saved_tensors
    if grad_loss.dtype == torch.float64:
        gradients = [gradient.clone() for gradient in gradients]
    else:
        ctx.handed_over = True
    torch.ops.effdet.rescale_(gradients, grad_loss, grad_scale)
    return list(gradients)
