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
ALIGNMENT = 64  # bytes; where a joined average begins
_COPIED = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def ema_update_(
    averages: Sequence[Tensor],
    values: Sequence[Tensor],
    updates: Tensor,
    *,
    decay: float,
    found_inf: Tensor | None = None,
    joined: bool = False,
) -> None:
    """Move the averages towards the values, in place; nothing is differentiated.

    Nothing is read on the host, so that the call can be captured in a CUDA graph. Fastest with
    ``joined`` averages, which halve the number of tensors that are handed over.

    Args:
        averages: one for each value, of its shape and any strides, none sharing memory with
            another; float32 for float16, bfloat16 and float32 values, else of their values' dtype
            (float64, integers, bool). With ``joined``: buffers, see there.
        values: the tensors to follow.
        updates: int64 ``[2]``: the updates done before, at least 0, which is counted up; and 0,
            which belongs to the CUDA kernel.
        decay: of the average, in [0, 1].
        found_inf: one float32, as of ``torch.amp.GradScaler``; where it is not 0 the step was
            skipped, and nothing is done or counted. None is 0.
        joined: whether ``averages`` are buffers, one for each dtype, that hold the averages of
            the values in their order, as :func:`joined_averages` makes and :func:`split_averages`
            reads them.

    Raises:
        ValueError: for a wrong shape, dtype, device or decay.
    """
    _check_settings(updates, decay, found_inf)
    arguments = (list(averages), list(values), updates, found_inf, decay, joined)
    if torch.compiler.is_compiling():
        _op(*arguments)
        return
    try:
        with torch.no_grad():
            _op(*arguments)
    except RuntimeError as error:
        # Only now: for a thousand tensors these checks would take as long as the update.
        if joined:
            averages = split_averages(averages, values)
        check_pairs(averages, values, updates)
        if "must not share memory" in str(error):
            raise ValueError("averages must not share memory with each other") from error
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


def joined_averages(values: Sequence[Tensor]) -> list[Tensor]:
    """Buffers, one for each dtype and zero, for joined averages of ``values``."""
    return [
        torch.zeros(max(ends), dtype=dtype, device=values[0].device)
        for dtype, ends in _places(values)[1].items()
    ]


def split_averages(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    """The averages in joined ``buffers``: views with shapes and strides of ``values``.

    Each begins at the next multiple of 64 bytes. Values with gaps get the strides of
    ``torch.empty_like``.

    Raises:
        ValueError: for buffers that do not fit the values.
    """
    starts, ends = _places(values)
    found = {buffer.dtype: buffer for buffer in buffers if buffer.dim() == 1}
    if len(found) != len(buffers) or not all(b.is_contiguous() for b in buffers):
        raise ValueError("joined averages must be 1-D, contiguous and of different dtypes")
    for dtype, needed in ends.items():
        if dtype not in found or found[dtype].numel() < max(needed):
            numbers = found[dtype].numel() if dtype in found else 0
            raise ValueError(f"averages of {dtype} must have {max(needed)} numbers, got {numbers}")
    return [
        found[average_dtype(value)].as_strided(value.shape, _dense_strides(value), start)
        for value, start in zip(values, starts)
    ]


def _places(values: Sequence[Tensor]) -> tuple[list[int], dict[torch.dtype, list[int]]]:
    """Where each average begins in its buffer, and where those of each dtype end."""
    starts, next_start = [], dict.fromkeys(map(average_dtype, values), 0)
    ends: dict[torch.dtype, list[int]] = {dtype: [] for dtype in next_start}
    for value in values:
        dtype = average_dtype(value)
        step = ALIGNMENT // dtype.itemsize
        starts.append(next_start[dtype])
        ends[dtype].append(starts[-1] + value.numel())
        next_start[dtype] += -(-value.numel() // step) * step
    return starts, ends


def _dense_strides(value: Tensor) -> tuple[int, ...]:
    return torch.empty_like(value, device="meta").stride()


def average_dtype(value: Tensor) -> torch.dtype:
    """The dtype of an average of ``value``: float32 for 16-bit values, else theirs."""
    return torch.float32 if value.dtype in _SHADOWED else value.dtype


def reference(
    averages: list[Tensor],
    values: list[Tensor],
    updates: Tensor,
    found_inf: Tensor | None,
    decay: float,
    joined: bool = False,
) -> None:
    """The definition of the operator, for the arguments of the public function."""
    if joined:
        averages = split_averages(averages, values)
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
    joined: bool = False,
) -> None:
    if not joined:
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
