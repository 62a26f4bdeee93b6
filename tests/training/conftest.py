# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Any

import pytest
import torch

from effdet.anchors import Anchors
from effdet.config import ModelConfig, model_config
from effdet.losses import DetectionLoss
from effdet.models import build_model
from effdet.precision import build_scaler
from effdet.settings import Optimizer
from effdet.structures import Batch, ClassMap, Target
from effdet.training import ModelEma, Trainer, build_optimizer
from effdet.training.schedule import CosineSchedule

CPU = torch.device("cpu")
CONFIG: ModelConfig = model_config(
    "efficientdet_lite0", image_size=(64, 64), num_classes=2, survival_prob=1.0
)
CLASS_MAP = ClassMap(("red", "blue"), (1, 2))
MakeTrainer = Callable[..., Trainer]


def two_images() -> Batch:
    """A red square at the left of the first image, a blue bar at the top of the second."""
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.1
    boxes = torch.tensor([[8.0, 16, 32, 40], [16.0, 4, 56, 24]])
    for label, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        images[label, 2 * label, y1:y2, x1:x2] = 2.0
    targets = [
        Target(
            boxes=boxes[i : i + 1],
            labels=torch.tensor([i]),
            crowd=torch.zeros(1, dtype=torch.bool),
            image_id=i,
            scale=1.0,
            size=(64, 64),
        )
        for i in range(2)
    ]
    return Batch(images=images, targets=targets)


@pytest.fixture
def make_trainer() -> MakeTrainer:
    """A trainer of a small Lite0; ``changes`` are fields of :class:`Trainer`."""

    def _make(
        *,
        lr: float = 0.02,
        seed: int = 0,
        ema: bool = True,
        config: ModelConfig = CONFIG,
        optimizer: Optimizer = "sgd",
        scaler: torch.amp.GradScaler | None = None,
        **changes: Any,
    ) -> Trainer:
        torch.manual_seed(seed)
        model = build_model(config)
        schedule = CosineSchedule(lr=lr, warmup_lr=lr, warmup_steps=0, total_steps=1000)
        return Trainer(
            model=model,
            criterion=DetectionLoss(Anchors(config)),
            optimizer=build_optimizer(
                model, kind=optimizer, lr=lr, momentum=0.9, weight_decay=4e-5
            ),
            schedule=schedule,
            scaler=scaler or build_scaler(CPU, None),
            ema=ModelEma(model, 0.99) if ema else None,
            device=CPU,
            **changes,
        )

    return _make
