# SPDX-License-Identifier: Apache-2.0
"""Does a box loss of its own pay, against encoded targets and torch's huber_loss?

Loss and gradient of the box predictions of an EfficientDet-D0 at 512 pixels for four images of 8
objects. The other way makes targets of all anchors ``[B, A, 4]``, flattens the levels and leaves
the gradient to autograd. Floor: the predictions set to zero. All run in this process on one thread,
in turn, the best of several in CPU time.

    python benchmarks/box_loss.py

Writes benchmarks/results/box_loss.json.
"""

from typing import Any

import torch
import torch.nn.functional as F
from assignment import random_boxes
from measuring import best_in_turn, write_result
from torch import Tensor

from effdet.anchors import build_anchors, feature_sizes
from effdet.config import model_config
from effdet.levels import flatten_levels
from effdet.ops import assign_anchors, huber_box_loss
from effdet.ops.box_loss import box_targets

BATCH, NUM_BOXES = 4, 8
DELTA = 0.1


def main() -> None:
    """Measure both memory formats and dtypes, print a line each and write the result."""
    torch.set_num_threads(1)
    rows = [
        measure(dtype, memory_format)
        for dtype in (torch.float32, torch.bfloat16)
        for memory_format in (torch.channels_last, torch.contiguous_format)
    ]
    write_result("box_loss", {"rows": rows})


def measure(dtype: torch.dtype, memory_format: torch.memory_format) -> dict[str, Any]:
    """Times of loss and gradient in milliseconds, and how many times faster ours is."""
    config = model_config("efficientdet_d0")
    anchors = build_anchors(config)
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, NUM_BOXES)
    labels = torch.zeros(BATCH, NUM_BOXES, dtype=torch.int64)
    matched = assign_anchors(anchors, boxes, labels).matched
    sizes = feature_sizes(config.image_size, config.min_level, config.max_level)
    levels = [
        torch.randn(BATCH, 4 * config.anchors_per_location, *size, generator=generator)
        .to(dtype, memory_format=memory_format)
        .requires_grad_()
        for size in sizes
    ]
    one = torch.ones(())

    def fused() -> Tensor:
        return huber_box_loss(
            levels, anchors, boxes, matched, normalizer=one, grad_scale=one, delta=DELTA
        )

    def plain() -> Tensor:
        return with_targets(levels, anchors, boxes, matched)

    torch.testing.assert_close(fused(), plain(), rtol=1e-5, atol=0)
    times = best_in_turn(
        {
            "ours": lambda: torch.autograd.grad(fused(), levels),
            "encode_and_huber": lambda: torch.autograd.grad(plain(), levels),
            "zeros": lambda: [torch.zeros_like(level) for level in levels],
        },
        rounds=30,
    )
    row = {
        "matched_anchors": int((matched >= 0).sum()),
        "dtype": str(dtype).removeprefix("torch."),
        "memory_format": str(memory_format).removeprefix("torch."),
        **{f"{name}_ms": round(ms, 3) for name, ms in times.items()},
        "times_faster": round(times["encode_and_huber"] / times["ours"], 1),
    }
    print(row, flush=True)
    return row


def with_targets(levels: list[Tensor], anchors: Tensor, boxes: Tensor, matched: Tensor) -> Tensor:
    """The same loss by way of the targets of all anchors."""
    targets = box_targets(anchors, boxes, matched)
    predicted = flatten_levels(levels, 4).float()
    loss = F.huber_loss(predicted, targets, reduction="none", delta=DELTA)
    return torch.where(targets != 0, loss, 0.0).sum()


if __name__ == "__main__":
    main()
