# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: which type, and when."""

import contextlib

import torch

from effdet.errors import UsageError


def autocast_dtype(device: torch.device, amp: bool, wanted: str | None) -> torch.dtype | None:
    """The type of mixed-precision work on ``device``, None for full precision.

    Args:
        device: where the work is done.
        amp: whether mixed precision is wanted.
        wanted: ``float16`` or ``bfloat16``; None for float16 on a GPU and bfloat16 on a CPU.

    Raises:
        UsageError: for float16 on a CPU, which has no fast kernels for it.
    """
    if not amp:
        return None
    if wanted == "float16" and device.type == "cpu":
        raise UsageError("--amp-dtype float16 needs a GPU; on a CPU use bfloat16 (the default)")
    if wanted is None:
        wanted = "bfloat16" if device.type == "cpu" else "float16"
    return torch.float16 if wanted == "float16" else torch.bfloat16


def autocast(
    device: torch.device, dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[None]:
    """Mixed precision in ``dtype``; nothing where it is None."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def build_scaler(device: torch.device, dtype: torch.dtype | None) -> torch.amp.GradScaler:
    """The loss scaler: at work for float16 only, whose small gradients would vanish."""
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
