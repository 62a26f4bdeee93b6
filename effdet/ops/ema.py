# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of all tensors of a model in one pass (on a GPU: one launch).

With ``t`` updates done before::

    d = min(decay, (1 + t) / (10 + t))        average += (1 - d) * (value - average)

The second term of the minimum lets an average forget its start quickly. Near the start, where
``1 - d`` is at least a half, the same is computed as ``value - d * (value - average)``, as
``torch.lerp`` does: ``d = 0`` then gives the value itself.

Integers (the counters of batch norms) are copied.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_SHADOWED = (torch.float16, torch.bfloat16, torch.float32)
_COPIED = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def ema_update_(
    averages: Sequence[Tensor],
    values: Sequence[Tensor],
    updates: Tensor,
    *,
    decay: float,
    found_inf: Tensor | None = None,
) -> None:
    """Move the averages towards the values, in place; nothing is differentiated.

    Fastest where an average and its values have the same strides, and the averages lie in one
    buffer in their order. Nothing is read on the host, so that the call can be captured in a CUDA
    graph.

    Args:
        averages: tensors of any shapes that share no memory: float32 for float16, bfloat16 and
            float32 values, else of their values' dtype (float64, integers, bool).
        values: as many tensors, each of the shape of its average.
        updates: int64 ``[2]``: the updates done before, at least 0, which is counted up; and 0,
            which belongs to the CUDA kernel.
        decay: of the average, in [0, 1].
        found_inf: one float32, as of ``torch.amp.GradScaler``; where it is not 0 the step was
            skipped, and nothing is done or counted. None is 0.

    Raises:
        ValueError: for a wrong shape, dtype, device or decay.
    """
    _check_settings(updates, decay, found_inf)
    arguments = (list(averages), list(values), updates, found_inf, decay)
    if torch.compiler.is_compiling():
        _op(*arguments)
        return
    try:
        with torch.no_grad():
            _op(*arguments)
    except RuntimeError:
        # Only now: for a thousand tensors these checks would take as long as the update.
        check_pairs(averages, values, updates)
        raise
    torch.autograd.graph.increment_version([*averages, updates])


def _check_settings(updates: Tensor, decay: float, found_inf: Tensor | None) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    if updates.dtype != torch.int64 or updates.shape != (2,) or not updates.is_contiguous():
        raise ValueError(
            f"updates must be int64 [2], contiguous, got {updates.dtype} {list(updates.shape)}"
        )
    if found_inf is None:
        return
    if found_inf.dtype != torch.float32 or found_inf.numel() != 1:
        raise ValueError(
            f"found_inf must be one float32, got {found_inf.dtype} {list(found_inf.shape)}"
        )
    if found_inf.device != updates.device:
        raise ValueError(
            f"found_inf must be on the device of updates, {updates.device}, got {found_inf.device}"
        )


def check_pairs(averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor) -> None:
    """Raise the ``ValueError`` of :func:`ema_update_` for tensors that do not fit each other."""
    if len(averages) != len(values):
        raise ValueError(
            f"averages and values must be as many, got {len(averages)} and {len(values)}"
        )
    for i, (average, value) in enumerate(zip(averages, values)):
        if average.shape != value.shape:
            raise ValueError(
                f"averages[{i}] must be {list(value.shape)} as values[{i}], "
                f"got {list(average.shape)}"
            )
        if value.dtype not in (*_SHADOWED, torch.float64, *_COPIED):
            raise ValueError(
                f"values[{i}] must be float16, bfloat16, float32, float64, integer or bool, "
                f"got {value.dtype}"
            )
        if average.dtype != average_dtype(value):
            raise ValueError(
                f"averages[{i}] must be {average_dtype(value)} for values of {value.dtype}, "
                f"got {average.dtype}"
            )
        for name, tensor in (("averages", average), ("values", value)):
            if tensor.device != updates.device:
                raise ValueError(
                    f"{name}[{i}] must be on the device of updates, {updates.device}, "
                    f"got {tensor.device}"
                )


def average_dtype(value: Tensor) -> torch.dtype:
    """The dtype of an average of ``value``: float32 for 16-bit values, else theirs."""
    return torch.float32 if value.dtype in _SHADOWED else value.dtype


def reference(
    averages: list[Tensor],
    values: list[Tensor],
    updates: Tensor,
    found_inf: Tensor | None,
    decay: float,
) -> None:
    """The definition of the operator, for the arguments of the public function."""
    check_pairs(averages, values, updates)
    weight = (9 / (10 + updates[0].clamp(min=0).double())).clamp(min=1 - decay)  # 1 - d
    skipped = updates.new_zeros((), dtype=torch.bool)
    if found_inf is not None:
        skipped = found_inf.reshape(()) != 0
    for average, value in zip(averages, values):
        moved = _lerp(average, value, weight) if value.is_floating_point() else value
        average.copy_(torch.where(skipped, average, moved))
    updates[0] += ~skipped


def _lerp(average: Tensor, value: Tensor, weight: Tensor) -> Tensor:
    value, weight = value.to(average.dtype), weight.to(average.dtype)
    difference = value - average
    far = value - (1 - weight) * difference
    return torch.where(weight < 0.5, average + weight * difference, far)


def _fake(
    averages: list[Tensor],
    values: list[Tensor],
    updates: Tensor,
    found_inf: Tensor | None,
    decay: float,
) -> None:
    check_pairs(averages, values, updates)


# Not custom_op, whose Python code around every call takes a microsecond a tensor: as long as the
# update itself.
_library = torch.library.Library("effdet", "FRAGMENT")
_library.define(
    "ema_update_" + torch.library.infer_schema(reference, mutates_args=("averages", "updates")),
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("ema_update_", reference, "CompositeExplicitAutograd")
torch.library.register_fake("effdet::ema_update_", _fake, lib=_library)
_op = torch.ops.effdet.ema_update_.default
