# SPDX-License-Identifier: Apache-2.0
"""How long do focal loss and gradient take, against torchvision's with a one-hot tensor?

Both run in this process on one thread, one after the other, the best of several in CPU time, which
other programs disturb less than the clock; the ratio is what carries over to another machine.

    python benchmarks/focal_loss.py

Writes benchmarks/results/focal_loss.json.
"""

import datetime
import json
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_loss

from effdet.ops import build_info, sigmoid_focal_loss
from effdet.ops.focal_loss import reference

RESULT = Path(__file__).parent / "results" / "focal_loss.json"
ALPHA, GAMMA = 0.25, 1.5

# [B, A, K]: anchors of 128, 256 and 512 pixels; 4, 20 and 90 classes.
SIZES = ((8, 3069, 4), (4, 12276, 20), (1, 49104, 90))


def main() -> None:
    """Measure every size and dtype, print a table and write the result."""
    torch.set_num_threads(1)
    rows = [measure(size, dtype) for dtype in (torch.float32, torch.bfloat16) for size in SIZES]
    result = {
        "command": "python benchmarks/focal_loss.py",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "build": build_info(),
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def measure(size: tuple[int, int, int], dtype: torch.dtype) -> dict[str, Any]:
    """Times of loss and gradient in milliseconds, and how many times faster ours is."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(size, generator=generator) - 4).to(dtype).requires_grad_()
    targets = torch.full(size[:2], -1)
    targets[:, ::300] = 0  # about as many positives as in training

    ours = best(lambda: sigmoid_focal_loss(logits, targets, alpha=ALPHA, gamma=GAMMA), logits)
    theirs = best(lambda: with_one_hot(logits, targets), logits)
    definition = best(lambda: reference(logits.detach(), targets, ALPHA, GAMMA, 0.0, True))
    row = {
        "size": list(size),
        "dtype": str(dtype).removeprefix("torch."),
        "ours_ms": round(ours, 3),
        "torchvision_ms": round(theirs, 3),
        "reference_ms": round(definition, 3),
        "times_faster_than_torchvision": round(theirs / ours, 2),
        "ns_per_logit": round(ours * 1e6 / logits.numel(), 2),
    }
    print(row, flush=True)
    return row


def with_one_hot(logits: Tensor, targets: Tensor) -> Tensor:
    """The same loss by torchvision (background only beside classes, nothing ignored)."""
    one_hot = F.one_hot(targets.clamp(min=0), logits.shape[-1]) * (targets >= 0).unsqueeze(-1)
    loss: Tensor = torchvision_loss(logits, one_hot.to(logits.dtype), ALPHA, GAMMA, reduction="sum")
    return loss


def best(function: Callable[[], Any], logits: Tensor | None = None, repeats: int = 15) -> float:
    """Shortest time in milliseconds; with ``logits``, of the forward and backward pass."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        loss = function()
        if logits is not None:
            torch.autograd.grad(loss, logits)
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def machine() -> str:
    """Processor and versions in a line."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    name = model.group(1) if model else platform.processor()
    return f"{name}, 1 thread, torch {torch.__version__}"


if __name__ == "__main__":
    main()
