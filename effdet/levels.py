# SPDX-License-Identifier: Apache-2.0
"""The heads' outputs: a tensor a pyramid level, and the same values as one row an anchor.

A level is ``[B, anchors * V, H, W]`` as the last convolution leaves it, V values (class logits, box
deltas) for each of the anchors at a place; channel = anchor * V + value. Flattened, the anchors
stand in the order of :func:`effdet.anchors.build_anchors`: level, row, column, anchor. The
operators read the levels where they lie; flattening copies.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What levels may be made of."""


def flatten_levels(levels: Sequence[Tensor], values: int) -> Tensor:
    """Levels ``[B, anchors * values, H, W]`` as one ``[B, A, values]``."""
    rows = [
        x.permute(0, 2, 3, 1).reshape(x.shape[0], num_anchors_of([x], values), values)
        for x in levels
    ]
    return torch.cat(rows, 1)


def split_levels(flat: Tensor, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """The inverse of :func:`flatten_levels`.

    Args:
        flat: ``[B, A, values]``.
        shapes: ``(anchors, height, width)`` of each level, anchors being those at one place.

    Returns:
        ``[B, anchors * values, height, width]`` each, in the channels-last memory format.
    """
    counts = [anchors * height * width for anchors, height, width in shapes]
    return [
        rows.reshape(flat.shape[0], height, width, anchors * flat.shape[2])
        .permute(0, 3, 1, 2)
        .contiguous(memory_format=torch.channels_last)
        for rows, (anchors, height, width) in zip(flat.split(counts, 1), shapes, strict=True)
    ]


def as_one_level(flat: Tensor) -> list[Tensor]:
    """``[B, A, values]`` as a single level of one anchor and A rows, without a copy."""
    return [flat.transpose(1, 2).unsqueeze(-1)]


def num_anchors_of(levels: Sequence[Tensor], values: int) -> int:
    """How many anchors ``levels`` have values for, A."""
    return sum(x.shape[1] // values * x.shape[2] * x.shape[3] for x in levels)


def values_per_anchor(levels: Sequence[Tensor], num_anchors: int) -> int:
    """How many values ``levels`` have for each of ``num_anchors`` anchors, such as classes."""
    values = sum(x.shape[1] * x.shape[2] * x.shape[3] for x in levels)
    return values // num_anchors if num_anchors else 1


def readable(level: Tensor) -> Tensor:
    """``level`` itself if it is contiguous or channels-last, as the kernels read, else a copy."""
    if level.is_contiguous(memory_format=torch.channels_last):
        return level
    return level.contiguous()


def check_levels(name: str, levels: Sequence[Tensor], values: int) -> None:
    """Raise a ``ValueError`` unless ``levels`` are such, with ``values`` values an anchor.

    They must be ``[B, anchors * values, H, W]`` with one B, of one float dtype and on one device.
    """
    if not isinstance(levels, list | tuple) or not levels:
        got = type(levels).__name__
        raise ValueError(
            f"{name} must be a list of levels [B, anchors * {values}, H, W], not empty, got {got}"
        )
    first = levels[0]
    if first.dtype not in DTYPES:
        raise ValueError(f"{name} must be float16, bfloat16, float32 or 64, got {first.dtype}")
    for level, x in enumerate(levels):
        if x.dim() != 4 or x.shape[0] != first.shape[0] or x.shape[1] % values != 0:
            raise ValueError(
                f"{name} must be [B, anchors * {values}, H, W], got {list(x.shape)} "
                f"at level {level}"
            )
        if x.dtype != first.dtype or x.device != first.device:
            raise ValueError(
                f"{name} must have one dtype and device, got {first.dtype} on {first.device} and "
                f"{x.dtype} on {x.device} at level {level}"
            )
