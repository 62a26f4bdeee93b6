# SPDX-License-Identifier: Apache-2.0
"""The learning rate as a function of the step."""

import math
from dataclasses import dataclass

import torch

from effdet.config import Schedule

REFERENCE_BATCH = 64
"""The global batch that learning rates are given for."""


@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """Linear warm-up, then half a cosine.

    ``cosine`` starts at ``lr`` where the warm-up ends and reaches 0 at the end of the run.
    ``automl`` is google/automl's: as long, but counted from the first step, so the rate drops a
    little where the warm-up ends and rises a hair at the very end; published models were trained
    so, with a warm-up of one epoch in 300. With a long warm-up it goes wrong.

    Attributes:
        lr: rate at the end of the warm-up.
        warmup_lr: rate at step 0.
        warmup_steps: steps of warm-up.
        total_steps: steps of the whole run.
        kind: ``cosine`` or ``automl``.
    """

    lr: float
    warmup_lr: float
    warmup_steps: int
    total_steps: int
    kind: Schedule = "cosine"

    def __call__(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.warmup_lr + step / self.warmup_steps * (self.lr - self.warmup_lr)
        start = 0 if self.kind == "automl" else self.warmup_steps
        progress = (step - start) / max(self.total_steps - self.warmup_steps, 1)
        return 0.5 * self.lr * (1 + math.cos(math.pi * progress))

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set the rate of ``step`` in all groups of ``optimizer`` and return it."""
        rate = self(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate


def build_schedule(
    *,
    lr: float,
    warmup_lr: float,
    warmup_epochs: float,
    epochs: int,
    steps_per_epoch: int,
    global_batch: int,
    kind: Schedule = "cosine",
) -> CosineSchedule:
    """The schedule of a run, its rates scaled from :data:`REFERENCE_BATCH` to ``global_batch``."""
    scale = global_batch / REFERENCE_BATCH
    total = epochs * steps_per_epoch
    return CosineSchedule(
        lr=lr * scale,
        warmup_lr=warmup_lr * scale,
        warmup_steps=min(round(warmup_epochs * steps_per_epoch), total // 2),
        total_steps=total,
        kind=kind,
    )
