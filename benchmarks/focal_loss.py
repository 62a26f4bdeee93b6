# SPDX-License-Identifier: Apache-2.0
"""How long do focal loss and gradient take, and how much memory, against what people use instead?

The outputs of an EfficientDet-D0 at 512 pixels for two images: 49,104 anchors, 90 classes, in five
levels. Peers: torchvision's loss on one-hot targets with autograd, and the plain form compiled by
torch.compile; both need the levels in one tensor first. Floor: a copy of the logits. All run in
this process on one thread, in turn, the best of several in CPU time.

    python benchmarks/focal_loss.py

Writes benchmarks/results/focal_loss.json.
"""

import ctypes
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import best_in_turn, write_result
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_loss

from effdet.levels import flatten_levels
from effdet.ops import sigmoid_focal_loss

ALPHA, CLASSES, IMAGES = 0.25, 90, 2
SIDES = (64, 32, 16, 8, 4)
NORMALIZER = 100.0


def main() -> None:
    """Measure every layout, dtype and exponent; print a table and write the result."""
    torch.set_num_threads(1)
    rows = [
        measure(dtype, channels_last, gamma)
        for dtype in (torch.float32, torch.bfloat16)
        for channels_last in (False, True)
        for gamma in (1.5, 2.0)
    ]
    memory = {name: peak_memory(name) for name in ("ours", "torchvision", "compiled")}
    print(memory)
    write_result("focal_loss", {"times_ms": rows, "peak_memory_in_sizes_of_the_logits": memory})


def inputs(dtype: torch.dtype, channels_last: bool, images: int = IMAGES) -> tuple[Any, Tensor]:
    """Levels with little foreground, and targets with about as many objects as in training."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    levels = [
        (1.5 * torch.randn(images, 9 * CLASSES, side, side, generator=generator) - 4)
        .to(dtype=dtype, memory_format=layout)
        .requires_grad_()
        for side in SIDES
    ]
    targets = torch.full((images, 9 * sum(side**2 for side in SIDES)), -1, dtype=torch.int32)
    targets[:, ::500] = 17
    targets[:, 7::300] = -2
    return levels, targets


def ours(levels: list[Tensor], targets: Tensor, gamma: float) -> Tensor:
    """The operator."""
    return sigmoid_focal_loss(
        levels, targets, num_classes=CLASSES, alpha=ALPHA, gamma=gamma, normalizer=NORMALIZER
    )


def with_torchvision(levels: list[Tensor], targets: Tensor, gamma: float) -> Tensor:
    """torchvision's loss on a one-hot tensor, ignored anchors masked."""
    logits = flatten_levels(levels, CLASSES)
    index = targets.long()
    one_hot = F.one_hot(index.clamp(min=0), CLASSES) * (index >= 0).unsqueeze(-1)
    terms = torchvision_loss(logits, one_hot.to(logits.dtype), ALPHA, gamma, reduction="none")
    return (terms * (index != -2).unsqueeze(-1)).sum(dtype=torch.float32) / NORMALIZER


def plain(levels: list[Tensor], targets: Tensor, gamma: float) -> Tensor:
    """The plain form without a one-hot tensor, for torch.compile."""
    logits = flatten_levels(levels, CLASSES).float()
    present = targets.unsqueeze(-1) == torch.arange(CLASSES)
    wrong = torch.where(present, -logits, logits)
    weight = torch.where(present, ALPHA, 1 - ALPHA)
    terms = weight * wrong.sigmoid() ** gamma * F.softplus(wrong)
    return (terms * (targets != -2).unsqueeze(-1)).sum() / NORMALIZER


def measure(dtype: torch.dtype, channels_last: bool, gamma: float) -> dict[str, Any]:
    """Times of loss and gradient in milliseconds, and the ratios that carry over to others."""
    levels, targets = inputs(dtype, channels_last)
    copies = [torch.empty_like(level) for level in levels]
    # Compiled for this dtype, layout and exponent alone.
    torch._dynamo.reset()
    compiled = torch.compile(functools.partial(plain, gamma=gamma), dynamic=False)

    def step(loss: Callable[[list[Tensor], Tensor], Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(loss(levels, targets), levels)

    def copy() -> None:
        for to, level in zip(copies, levels, strict=True):
            to.copy_(level.detach())

    times = best_in_turn(
        {
            "ours": step(functools.partial(ours, gamma=gamma)),
            "torchvision": step(functools.partial(with_torchvision, gamma=gamma)),
            "compiled": step(compiled),
            "copy": copy,
        }
    )
    logits = sum(level.numel() for level in levels)
    row = {
        "dtype": str(dtype).removeprefix("torch."),
        "layout": "channels last" if channels_last else "contiguous",
        "gamma": gamma,
        **{f"{name}_ms": round(ms, 2) for name, ms in times.items()},
        "ns_per_logit": round(times["ours"] * 1e6 / logits, 2),
        "times_faster_than_torchvision": round(times["torchvision"] / times["ours"], 1),
        "times_faster_than_compiled": round(times["compiled"] / times["ours"], 1),
        "copies": round(times["ours"] / times["copy"], 2),
    }
    print(row, flush=True)
    return row


def peak_memory(name: str) -> float:
    """Peak of loss and backward pass above what was there before, in sizes of the logits."""
    command = [sys.executable, __file__, name]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def print_peak_memory(name: str) -> None:
    """In a process of its own: the peak only ever rises."""
    loss = {"ours": ours, "torchvision": with_torchvision, "compiled": torch.compile(plain)}[name]
    few, few_targets = inputs(torch.float32, True, images=1)
    torch.autograd.grad(loss(few, few_targets, 1.5), few)  # what is allocated once
    del few
    levels, targets = inputs(torch.float32, True, images=8)
    ctypes.CDLL(None).malloc_trim(0)  # freed memory would be used again without being counted
    before = memory_bytes("VmRSS")
    torch.autograd.grad(loss(levels, targets, 1.5), levels)
    growth = memory_bytes("VmHWM") - before
    print(round(growth / sum(4 * level.numel() for level in levels), 2))


def memory_bytes(field: str) -> int:
    """Memory of this process: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_peak_memory(sys.argv[1])
    else:
        main()
