# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdet.errors import SignalError
from effdet.evaluation import CocoEvaluator, Metrics, evaluate
from effdet.structures import Batch, ClassMap, Detections, Target

CATEGORIES = [{"id": 1, "name": "cat"}]


class Blind(nn.Module):
    """A model whose output nobody looks at."""

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        return [images], [images]


def truth(images: int) -> dict[str, Any]:
    boxes = [
        {"image_id": i, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
        for i in range(images)
    ]
    return {
        "images": [{"id": i} for i in range(images)],
        "annotations": [{"id": i} | row for i, row in enumerate(boxes)],
        "categories": CATEGORIES,
    }


def batches(images: int, batch_size: int) -> list[Batch]:
    return [
        Batch(
            images=torch.zeros(min(batch_size, images - start), 3, 4, 4),
            targets=[
                Target(
                    boxes=torch.zeros(0, 4),
                    labels=torch.zeros(0, dtype=torch.int64),
                    crowd=torch.zeros(0, dtype=torch.bool),
                    image_id=i,
                    scale=1.0,
                    size=(40, 40),
                )
                for i in range(start, min(start + batch_size, images))
            ],
        )
        for start in range(0, images, batch_size)
    ]


def find_all(_: Any, __: Any, targets: list[Target]) -> list[Detections]:
    box = torch.tensor([[10.0, 10, 30, 30]])
    one = Detections(boxes=box, scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.int64))
    return [one for _ in targets]


def run(images: int = 5, batch_size: int = 2, **options: Any) -> Metrics:
    evaluator = CocoEvaluator(truth(images), ClassMap.from_categories(CATEGORIES))
    device = torch.device("cpu")
    loader = batches(images, batch_size)
    return evaluate(Blind().train(), loader, find_all, evaluator, device=device, **options)


def test_every_image_of_every_batch_counts() -> None:
    assert run().figures["AP"] == pytest.approx(1.0)
    assert run(poll=lambda: None, rounds=3).figures["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(("rounds", "expected"), [(None, 3), (3, 3), (5, 5)])
def test_poll_is_called_once_a_round_of_the_process_with_most_batches(
    rounds: int | None, expected: int
) -> None:
    calls: list[int] = []
    run(poll=lambda: calls.append(1), rounds=rounds)
    assert len(calls) == expected


def test_fewer_rounds_than_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be the largest number of batches, got 2"):
        run(rounds=2)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_what_poll_raises_passes_through_before_anything_is_scored(at: int) -> None:
    calls: list[int] = []

    def poll() -> None:
        calls.append(1)
        if len(calls) == at:
            raise SignalError(15, "saved")

    with pytest.raises(SignalError, match="saved"):
        run(poll=poll, rounds=5)
    assert len(calls) == at
