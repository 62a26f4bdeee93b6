# SPDX-License-Identifier: Apache-2.0
"""How long does the target assignment take, against the IoU matrix and its maxima in torch?

The anchors of an EfficientDet-D0 at 512 pixels for four images. Both run in this process on one
thread, in turn, the best of several in CPU time; their results must be equal.

    python benchmarks/assignment.py

Writes benchmarks/results/assignment.json.
"""

from typing import Any

import torch
from measuring import best_in_turn, write_result
from torch import Tensor
from torchvision.ops import box_iou

from effdet.anchors import build_anchors
from effdet.config import model_config
from effdet.ops import assign_anchors

BATCH, IMAGE_SIZE = 4, 512
NUM_BOXES = (8, 100)
FOREGROUND_IOU = 0.5


def main() -> None:
    """Measure each number of boxes, print a line each and write the result."""
    torch.set_num_threads(1)
    anchors = build_anchors(model_config("efficientdet_d0"))
    write_result("assignment", {"rows": [measure(anchors, num_boxes) for num_boxes in NUM_BOXES]})


def measure(anchors: Tensor, num_boxes: int) -> dict[str, Any]:
    """Times in milliseconds, and how many times faster ours is."""
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, num_boxes)
    labels = torch.randint(0, 90, boxes.shape[:2], generator=generator)
    assignment = assign_anchors(anchors, boxes, labels, foreground_iou=FOREGROUND_IOU)
    if not torch.equal(assignment.matched, by_matrix(anchors, boxes).to(torch.int32)):
        raise RuntimeError(f"{num_boxes} boxes an image: the two disagree")
    times = best_in_turn(
        {
            "ours": lambda: assign_anchors(anchors, boxes, labels, foreground_iou=FOREGROUND_IOU),
            "box_iou_and_max": lambda: by_matrix(anchors, boxes),
        }
    )
    row = {
        "images": BATCH,
        "anchors": len(anchors),
        "boxes_an_image": num_boxes,
        "matched_anchors": int(assignment.num_foreground),
        **{f"{name}_ms": round(ms, 3) for name, ms in times.items()},
        "times_faster": round(times["box_iou_and_max"] / times["ours"], 1),
    }
    print(row, flush=True)
    return row


def random_boxes(generator: torch.Generator, num_boxes: int) -> Tensor:
    """``[B, M, 4]`` boxes with sides of 12 to 245 pixels, cut to the image."""
    size = torch.exp(torch.rand(BATCH, num_boxes, 2, generator=generator) * 3 + 2.5)
    centre = torch.rand(BATCH, num_boxes, 2, generator=generator) * IMAGE_SIZE
    return torch.cat([centre - size / 2, centre + size / 2], -1).clamp(0, IMAGE_SIZE)


def by_matrix(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The usual form, image by image: matrix, maxima both ways, forced matches. ``[B, A]``."""
    return torch.stack([_match_image(anchors, image_boxes) for image_boxes in boxes])


def _match_image(anchors: Tensor, boxes: Tensor) -> Tensor:
    iou = box_iou(boxes, anchors)
    best_iou, best_box = iou.max(0)
    matched = torch.where(best_iou >= FOREGROUND_IOU, best_box, -1)
    forced = torch.full_like(matched, len(boxes))
    forced.scatter_reduce_(0, iou.argmax(1), torch.arange(len(boxes)), "amin")
    return torch.where(forced < len(boxes), forced, matched)


if __name__ == "__main__":
    main()
