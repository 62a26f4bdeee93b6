# SPDX-License-Identifier: Apache-2.0
"""Mixed precision and TensorFloat-32: which type, and when."""

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


def set_tf32(enabled: bool) -> None:
    """Let GPUs round the inputs of float32 products to TensorFloat-32, or forbid it.

    That is for matrix products and convolutions alike, which torch sets apart by default. It does
    nothing on GPUs without TensorFloat-32 and on CPUs.
    """
    # torch's newer `fp32_precision` says the same, but where it was set, torch.compile fails
    # (torch 2.14: "mix of the legacy and new APIs").
    torch.backends.cuda.matmul.allow_tf32 = enabled
    torch.backends.cudnn.allow_tf32 = enabled


def slow_amp_warning(device: torch.device, dtype: torch.dtype | None) -> str | None:
    """What to tell a user whose mixed precision will be slower than none, else None."""
    if device.type != "cpu" or dtype is None or cpu_has_bfloat16():
        return None
    return (
        "--amp is bfloat16 on a CPU, and this one has no instructions for it: expect it to be much "
        "slower than without --amp"
    )


def cpu_has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; True where torch cannot tell."""
    if not hasattr(torch.cpu, "get_capabilities"):  # not in every torch since 2.11
        return True
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
