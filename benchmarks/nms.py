# SPDX-License-Identifier: Apache-2.0
"""How long does non-maximum suppression take, against torchvision's batched_nms?

Crowded boxes of 90 classes in random order, hard suppression at IoU 0.5, on one thread, alternately
in this process; the best of several in CPU time. Soft suppression, which torchvision does not have,
is timed beside it. ``same_picks`` counts how many of the picks, in their order, are those of
``torchvision.ops.nms`` run on each class.

    python benchmarks/nms.py [--check]

Writes benchmarks/results/nms.json. ``--check`` also runs the slow test that compares 100,000 random
and adversarial cases with torchvision, and records its outcome (some minutes).
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision
from measuring import best_in_turn, write_result
from torch import Tensor

from effdet.ops import nms

ROOT = Path(__file__).parents[1]
NUM_CLASSES, IMAGE_SIZE, NUM_OBJECTS = 90, 512, 60
CHECK = ["-m", "pytest", "-q", "-m", "slow", "tests/ops/test_nms.py"]


def main() -> None:
    """Measure every size and limit, print a line each and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="also run the 100,000 cases")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    rows = [measure(n, limit) for n in (1000, 5000, 20000) for limit in (100, n)]
    figures: dict[str, Any] = {"rows": rows, "torchvision": torchvision.__version__}
    if check:
        figures["check"] = {
            "command": " ".join(["python", *CHECK]),
            "cases": 100_000,
            "equal": subprocess.run([sys.executable, *CHECK], cwd=ROOT).returncode == 0,
        }
    write_result("nms", figures)


def measure(count: int, limit: int) -> dict[str, Any]:
    """Times in milliseconds for ``count`` boxes and at most ``limit`` picks."""
    boxes, scores, labels = crowd(count)

    def ours(method: Any = "hard") -> Any:
        return nms(
            boxes[None],
            scores[None],
            labels[None],
            method=method,
            max_detections=limit,
            score_threshold=0.0 if method == "hard" else 0.001,
        )

    def theirs() -> Tensor:
        picks: Tensor = torchvision.ops.batched_nms(boxes, scores, labels, 0.5)[:limit]
        return picks

    times = best_in_turn(
        {
            "ours": ours,
            "torchvision": theirs,
            "ours_linear": lambda: ours("linear"),
            "ours_gaussian": lambda: ours("gaussian"),
        },
        rounds=25,
    )
    found = ours()
    picks = found.picks[0, : int(found.counts)]
    exact = nms_of_each_class(boxes, scores, labels)[:limit]
    row = {
        "boxes": count,
        "max_detections": limit,
        "picks": len(picks),
        "same_picks": int((picks == exact).sum()) if len(picks) == len(exact) else 0,
        **{f"{name}_ms": round(ms, 4) for name, ms in times.items()},
        "times_faster_than_torchvision": round(times["torchvision"] / times["ours"], 2),
    }
    print(row, flush=True)
    return row


def crowd(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Jittered copies of some objects; a few in ten have another class than their object."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    centres, sizes = (
        uniform(NUM_OBJECTS, 2) * IMAGE_SIZE,
        (uniform(NUM_OBJECTS, 2) * 2.5 + 2.5).exp(),
    )
    classes = torch.randint(NUM_CLASSES, (NUM_OBJECTS,), generator=generator)
    which = torch.randint(NUM_OBJECTS, (count,), generator=generator)
    centres = centres[which] + normal(count, 2) * sizes[which] * 0.15
    half = sizes[which] * (normal(count, 2) * 0.2).exp() / 2
    boxes = torch.cat([centres - half, centres + half], 1).clamp(0, IMAGE_SIZE)
    others = torch.randint(NUM_CLASSES, (count,), generator=generator)
    labels = torch.where(uniform(count) < 0.6, classes[which], others)
    # Distinct scores: torchvision leaves the order of equal ones open.
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    return boxes, scores, labels


def nms_of_each_class(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """``torchvision.ops.nms`` a class at a time, merged by score."""
    parts = []
    for label in labels.unique():
        index = (labels == label).nonzero()[:, 0]
        parts.append(index[torchvision.ops.nms(boxes[index], scores[index], 0.5)])
    picks = torch.cat(parts)
    return picks[scores[picks].argsort(descending=True)]


if __name__ == "__main__":
    main()
