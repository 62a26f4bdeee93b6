# SPDX-License-Identifier: Apache-2.0
"""Huber loss (https://en.wikipedia.org/wiki/Huber_loss) of the predicted box offsets.

For the error e = prediction - target of one coordinate::

    loss = e**2 / 2 where |e| < delta, else delta * (|e| - delta / 2)
    d loss / d e = e, cut to [-delta, delta]

The targets are the offsets of each matched anchor's box (:func:`effdet.boxes.encode_boxes`),
computed on the fly. A coordinate whose target is exactly 0 gives no loss, as in EfficientDet's
reference code.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.boxes import encode_boxes
from effdet.levels import (
    check_levels,
    flatten_levels,
    num_anchors_of,
    readable,
    split_levels,
)
from effdet.ops import rescale


def huber_box_loss(
    deltas: Sequence[Tensor],
    anchors: Tensor,
    boxes: Tensor,
    matched: Tensor,
    *,
    normalizer: Tensor | float | None = None,
    grad_scale: Tensor | float | None = None,
    delta: float = 0.1,
) -> Tensor:
    """Sum of the Huber loss over the coordinates of matched anchors, divided by ``normalizer``.

    Loss and gradient come from one pass that computes at the matched anchors only and reads the
    predictions where they lie. NaN and infinite values propagate. A second backward pass, second
    and forward-mode derivatives are refused (float64 allows any number of first ones).

    Args:
        deltas: levels ``[B, anchors * 4, H, W]`` (see :mod:`effdet.levels`) of predicted (tx, ty,
            tw, th), of one dtype, float16, bfloat16, float32 or float64. Contiguous and
            channels-last levels are read in place, others are copied first. On CUDA at most 8
            levels, each of fewer than 2**31 values an image.
        anchors: ``[A, 4]`` float32 xyxy in pixels.
        boxes: ``[B, M, 4]`` float32 xyxy in the same pixels.
        matched: ``[B, A]`` int32, the box of each anchor in [0, M), negative where there is none,
            as from :func:`effdet.ops.assign_anchors`. Looking at the values would stall a device,
            so an index of M or more is no error: it makes the loss and the gradient there NaN.
        normalizer: constant the sum is divided by, above 0, such as the number of coordinates.
        grad_scale: foreseen gradient of the result, such as the loss weight times the GradScaler's
            factor; above 0. The backward pass costs nothing where it holds. Elsewhere it multiplies
            what was stored: float16 gradients that the foreseen scale made too small or too large
            stay lost.
        delta: where the loss turns from square to linear, in units of the offsets; above 0.

    Returns:
        Scalar, float64 for float64 predictions, else float32, also under autocast.

    Raises:
        ValueError: for a wrong shape, dtype, device or setting.
        RuntimeError: for a derivative that there is not, and beyond the limits of CUDA.
    """
    if not 0 < delta < float("inf"):
        raise ValueError(f"delta must be finite and above 0, got {delta}")
    check_levels("deltas", deltas, 4)
    _check_anchors(deltas, anchors, boxes, matched)
    rescale.refuse_forward_mode(deltas, "huber_box_loss")
    need_grad = torch.is_grad_enabled() and any(x.requires_grad for x in deltas)
    loss: Tensor
    loss, _ = _op(
        [readable(x) for x in deltas],
        anchors.detach(),
        boxes.detach(),
        matched,
        rescale.scalar_like("normalizer", normalizer, deltas[0]),
        rescale.scalar_like("grad_scale", grad_scale, deltas[0]),
        delta,
        need_grad,
    )
    return loss


def _check_anchors(
    deltas: Sequence[Tensor], anchors: Tensor, boxes: Tensor, matched: Tensor
) -> None:
    batch, num_anchors = deltas[0].shape[0], num_anchors_of(deltas, 4)
    num_boxes = boxes.shape[1] if boxes.dim() == 3 else 0
    for name, tensor, shape, dtype in (
        ("anchors", anchors, [num_anchors, 4], torch.float32),
        ("boxes", boxes, [batch, num_boxes, 4], torch.float32),
        ("matched", matched, [batch, num_anchors], torch.int32),
    ):
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {list(tensor.shape)}")
        if tensor.dtype != dtype:
            raise ValueError(f"{name} must be {dtype}, got {tensor.dtype}")
        if tensor.device != deltas[0].device:
            raise ValueError(
                f"{name} must be on the deltas' device {deltas[0].device}, got {tensor.device}"
            )


def box_targets(anchors: Tensor, boxes: Tensor, matched: Tensor) -> Tensor:
    """What a perfect model predicts: the arguments of :func:`huber_box_loss`.

    Returns:
        ``[B, A, 4]`` float32 (tx, ty, tw, th), 0 where there is no box, NaN where its index is out
        of range.
    """
    num_boxes = boxes.shape[1]
    padded = F.pad(boxes, (0, 0, 0, 1), value=float("nan"))  # row M, for every index beyond
    index = matched.long().clamp(0, num_boxes).unsqueeze(-1).expand(-1, -1, 4)
    targets = encode_boxes(padded.gather(1, index), anchors)
    return torch.where((matched >= 0).unsqueeze(-1), targets, 0.0)


def reference(
    deltas: list[Tensor],
    anchors: Tensor,
    boxes: Tensor,
    matched: Tensor,
    normalizer: Tensor,
    grad_scale: Tensor,
    delta: float,
    need_grad: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The definition of the operator: loss and gradients for the arguments of the public function.

    Returns:
        The scalar loss, and with ``need_grad`` its gradients times ``grad_scale``, in the dtype and
        memory format of the levels.
    """
    targets = box_targets(anchors, boxes, matched)
    counts = targets != 0
    error = flatten_levels(deltas, 4).to(normalizer.dtype) - targets  # [B, A, 4]
    terms = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)
    total = torch.where(counts, terms, 0.0).sum(dtype=torch.float64)
    loss = (total / normalizer).to(normalizer.dtype)
    if not need_grad:
        return loss, []
    slope = torch.where(counts, error.clamp(-delta, delta), 0.0) * (grad_scale / normalizer)
    shapes = [(level.shape[1] // 4, *level.shape[2:]) for level in deltas]
    rows = split_levels(slope.to(deltas[0].dtype), shapes)
    return loss, [torch.empty_like(x).copy_(g) for x, g in zip(deltas, rows, strict=True)]


_op = torch.library.custom_op("effdet::huber_box_loss", reference, mutates_args=())


@_op.register_fake
def _(
    deltas: list[Tensor],
    anchors: Tensor,
    boxes: Tensor,
    matched: Tensor,
    normalizer: Tensor,
    grad_scale: Tensor,
    delta: float,
    need_grad: bool,
) -> tuple[Tensor, list[Tensor]]:
    return normalizer.new_empty(()), [torch.empty_like(x) for x in deltas] if need_grad else []


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    rescale.keep(ctx, output[1], inputs[5])


def _backward(ctx: Any, grad_loss: Tensor | None, _: Any) -> tuple[Any, ...]:
    gradients = rescale.hand_over(ctx, grad_loss, "huber_box_loss")
    return gradients, None, None, None, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)
