# SPDX-License-Identifier: Apache-2.0
"""More than 2**31 elements: right at the last of them, or refused, and without the memory for it.

| operator             | what has more than 2**31 elements           | then                       |
|----------------------|---------------------------------------------|----------------------------|
| `sigmoid_focal_loss` | logits of a level                           | the last logit counts      |
| `huber_box_loss`     | deltas of a level, coordinates of anchors   | the last delta counts      |
| `select_candidates`  | logits of a level                           | the last pair is taken     |
|                      | 2**32 pairs an image                        | refused                    |
| `nms`                | coordinates of boxes                        | the last candidate is kept |
| `assign_anchors`     | 2**31 anchors                               | refused: indices are int32 |
| `ema_update_`        | elements of a tensor                        | the last one moves         |
| `rescale_`           | elements of a gradient                      | the last one is multiplied |

The gradient of the focal loss is in test_focal_loss.py. Memory that is only read is mapped but
never there.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from effdet.ops import build_info, ema_update_, huber_box_loss, nms, select_candidates
from effdet.ops.assign import assign_anchors
from effdet.ops.focal_loss import sigmoid_focal_loss

HUGE = 2**31
NO_RESERVE = 0x4000
needs_kernels = pytest.mark.skipif(
    not build_info()["cpu_kernels"], reason="the definitions need the memory"
)


def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that take memory only where they are written to."""
    size = torch.Size(shape).numel() * dtype.itemsize
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    return torch.frombuffer(mmap.mmap(-1, size, flags=private), dtype=dtype).view(shape)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def expanded(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros((1,) * len(shape), dtype=dtype).expand(shape)


@needs_kernels
@pytest.mark.slow
def test_focal_loss_of_the_last_logit() -> None:
    # 2**21 anchors of 2**10 classes and one class more, so that nothing is a power of two.
    level = zeros((1, 1025, 1, 2**21), torch.bfloat16).view(1, 1025, 2048, 1024)
    level[0, 1024, -1, -1] = 80.0
    targets = torch.full((1, 2**21), -2, dtype=torch.int32)
    targets[0, -1] = -1
    before = resident()
    loss = sigmoid_focal_loss([level], targets, num_classes=1025, alpha=0.25, gamma=0.0)
    assert level.numel() > HUGE
    assert resident() - before < 500e6
    assert loss.item() == pytest.approx(0.75 * (80.0 + 1024 * 0.6931472), rel=1e-5)


@needs_kernels
@pytest.mark.slow
def test_box_loss_of_the_last_delta() -> None:
    num_anchors = HUGE // 4 + 64
    level = zeros((1, 4, 64, num_anchors // 64), torch.bfloat16)
    level = level.as_strided(level.shape, (4 * num_anchors, 1, 4 * level.shape[3], 4))
    anchors, matched = zeros((num_anchors, 4), torch.float32), zeros((1, num_anchors), torch.int32)
    matched.fill_(-1)
    anchors[-1] = torch.tensor([0.0, 0, 8, 8])
    matched[0, -1] = 0
    level[0, 3, -1, -1] = 2.0
    boxes = torch.tensor([[[2.0, 0, 10, 8]]])  # tx = 0.25, the others 0: left out
    loss = huber_box_loss([level.requires_grad_()], anchors, boxes, matched, delta=0.1)
    assert level.numel() > HUGE
    assert loss.item() == pytest.approx(0.1 * (0.25 - 0.05), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, level)
    assert gradient[0, :, -1, -1].tolist() == pytest.approx([-0.1, 0, 0, 0], rel=1e-2)


@needs_kernels
def test_the_last_of_many_pairs_is_taken() -> None:
    num_anchors, num_classes = 2**20 + 1024, 2048
    logits = zeros((1, num_classes, 1024, 1025), torch.bfloat16)
    assert logits.numel() > HUGE
    assert logits.numel() == num_anchors * num_classes
    logits[0, -1, -1, -1] = 3.0
    anchors = torch.tensor([[0.0, 0, 8, 8]]).expand(num_anchors, 4)
    deltas = torch.zeros(1, 4, 1024, 1025)
    before = resident()
    found = select_candidates(
        [logits], [deltas], anchors, num_classes=num_classes, max_candidates=2, score_threshold=0.6
    )
    assert resident() - before < 500e6
    assert found.anchors.tolist() == [[num_anchors - 1, 0]]
    assert found.labels.tolist() == [[num_classes - 1, 0]]


def test_more_pairs_than_32_bits_hold_are_refused() -> None:
    logits, deltas = expanded(1, 2**16, 2**10, 2**6), expanded(1, 4, 2**10, 2**6)
    with pytest.raises(ValueError, match=r"at most 4294967295 values an image, got 4294967296"):
        select_candidates(
            [logits], [deltas], expanded(2**16, 4), num_classes=2**16, max_candidates=1
        )


@needs_kernels
@pytest.mark.slow
def test_the_last_of_many_boxes_is_kept() -> None:
    count = HUGE // 4 + 5
    boxes, scores = zeros((1, count, 4), torch.float32), zeros((1, count), torch.float32)
    boxes[0, -3:] = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 7], [20, 20, 28, 28]])
    scores[0, -3:] = torch.tensor([0.5, 0.9, 0.7])
    before = resident()
    found = nms(boxes, scores, zeros((1, count), torch.int64), max_detections=5)
    assert boxes.numel() > HUGE
    assert resident() - before < 500e6
    assert found.counts.tolist() == [2]
    assert found.picks[0, :2].tolist() == [count - 2, count - 1]


def test_more_anchors_than_indices_are_refused() -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"2\*\*31|2\^31"):
        assign_anchors(expanded(HUGE, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1).long())


@needs_kernels
@pytest.mark.slow
def test_the_last_of_many_averages_moves() -> None:
    value = torch.ones(1, dtype=torch.uint8).expand(HUGE + 7)
    average, updates = zeros((HUGE + 7,), torch.uint8), torch.tensor([5, 0])
    ema_update_([average], [value], updates, decay=0.9)
    assert average[-9:].tolist() == [1] * 9
    assert updates.tolist() == [6, 0]


@needs_kernels
@pytest.mark.slow
def test_the_last_of_many_gradients_is_multiplied() -> None:
    gradient = zeros((1, 1, 1, HUGE + 7), torch.bfloat16)
    gradient[..., -1] = 3.0
    torch.ops.effdet.rescale_([gradient], torch.tensor(2.0), torch.tensor(1.0))
    assert gradient[0, 0, 0, -2:].tolist() == [0.0, 6.0]
