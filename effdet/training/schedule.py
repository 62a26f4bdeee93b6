# SPDX-License-Identifier: Apache-2.0
"""The learning rate as a function of the step."""

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from effdet.settings import Schedule

REFERENCE_BATCH = 64
"""The global batch that learning rates are given for."""

NOISE_BOUND = 0.67
"""Draws of the noise of ``nvidia`` are repeated until they are smaller than this."""


@dataclass(frozen=True, kw_only=True)
class RateSchedule(ABC):
    """The learning rate of every step of a run.

    Attributes:
        lr: the full rate.
        warmup_lr: rate at step 0, where there is a warm-up.
        min_lr: rate of the cool-down; ``cosine`` and ``nvidia`` fall to it.
        total_steps: steps of the whole run, the cool-down included.
        cooldown_steps: steps at ``min_lr`` at the end of the run.
    """

    lr: float
    warmup_lr: float
    min_lr: float = 0.0
    total_steps: int
    cooldown_steps: int = 0

    @property
    def decay_steps(self) -> int:
        """Steps before the cool-down."""
        return self.total_steps - self.cooldown_steps

    def __call__(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0."""
        if self.cooldown_steps > 0 and step >= self.decay_steps:
            return self.min_lr
        return self.before_cooldown(step)

    @abstractmethod
    def before_cooldown(self, step: int) -> float:
        """The learning rate of a step before the cool-down."""

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set the rate of ``step`` in all groups of ``optimizer``, times their ``lr_factor``."""
        rate = self(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        return rate


@dataclass(frozen=True, kw_only=True)
class WarmupSchedule(RateSchedule):
    """Linear warm-up by step, then a decay.

    Attributes:
        warmup_steps: steps of warm-up.
    """

    warmup_steps: int

    def before_cooldown(self, step: int) -> float:
        """The warm-up's rate or the decayed one."""
        if step < self.warmup_steps:
            return self.warmup_lr + step / self.warmup_steps * (self.lr - self.warmup_lr)
        return self.decayed(step)

    @abstractmethod
    def decayed(self, step: int) -> float:
        """The learning rate of a step after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class CosineSchedule(WarmupSchedule):
    """``cosine``: from ``lr`` where the warm-up ends down to ``min_lr``, along half a cosine."""

    def decayed(self, step: int) -> float:
        """Half a cosine over the steps after the warm-up."""
        progress = (step - self.warmup_steps) / max(self.decay_steps - self.warmup_steps, 1)
        return _cosine(self.lr, self.min_lr, progress)


@dataclass(frozen=True, kw_only=True)
class AutomlSchedule(WarmupSchedule):
    """``automl``: google/automl's cosine, which published models were trained with.

    As long as :class:`CosineSchedule`'s, but counted from the first step, so that the rate drops a
    little where the warm-up ends and rises a hair at the very end; that is meant for a warm-up of
    one epoch in 300. It falls to 0, whatever ``min_lr`` is.
    """

    def decayed(self, step: int) -> float:
        """Half a cosine of the reference's length."""
        return _cosine(self.lr, 0.0, step / max(self.decay_steps - self.warmup_steps, 1))


@dataclass(frozen=True, kw_only=True)
class StepSchedule(WarmupSchedule):
    """``step``: a tenth of ``lr`` from 2/3 of the run on, a hundredth from 5/6 on.

    These are epochs 200 and 250 of 300, google/automl's ``stepwise``.
    """

    def decayed(self, step: int) -> float:
        """One of three rates."""
        if 6 * step >= 5 * self.decay_steps:
            return 0.01 * self.lr
        if 3 * step >= 2 * self.decay_steps:
            return 0.1 * self.lr
        return self.lr


@dataclass(frozen=True, kw_only=True)
class PolynomialSchedule(WarmupSchedule):
    """``polynomial``: to 0 with power 0.9 of the part of the run that is left, as google/automl.

    The run is counted from the first step, so that the rate drops a little after the warm-up.
    """

    power: float = 0.9

    def decayed(self, step: int) -> float:
        """A power of what is left of the run."""
        left: float = (1 - min(step / self.decay_steps, 1.0)) ** self.power
        return self.lr * left


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule(WarmupSchedule):
    """``constant``: ``lr`` after the warm-up."""

    def decayed(self, step: int) -> float:
        """The full rate."""
        return self.lr


@dataclass(frozen=True, kw_only=True)
class NvidiaSchedule(RateSchedule):
    """``nvidia``: a rate for each epoch, as NVIDIA's EfficientDet recipes.

    Linear warm-up, then a cosine that is counted from the first epoch: the rate drops where a long
    warm-up ends. In the epochs of ``noise`` it is multiplied by ``1 + n``, ``n`` drawn from a
    normal distribution by (seed, epoch).

    Attributes:
        warmup_epochs: epochs of warm-up.
        steps_per_epoch: steps that share a rate.
        noise: first epoch with noise and first without, None for no noise.
        seed: of the noise.
    """

    warmup_epochs: float
    steps_per_epoch: int
    noise: tuple[float, float] | None = None
    seed: int = 0

    def before_cooldown(self, step: int) -> float:
        """The rate of the epoch of ``step``."""
        epoch, epochs = step // self.steps_per_epoch, self.decay_steps // self.steps_per_epoch
        if epoch < self.warmup_epochs:
            rate = self.warmup_lr + epoch * (self.lr - self.warmup_lr) / self.warmup_epochs
        else:
            rate = _cosine(self.lr, self.min_lr, epoch / epochs)
        if self.noise is not None and self.noise[0] <= epoch < self.noise[1]:
            rate *= 1 + _noise(self.seed + epoch)
        return rate


@dataclass(frozen=True, kw_only=True)
class TwoPhaseSchedule(RateSchedule):
    """One schedule after the other.

    Attributes:
        first: the rates until it ends.
        then: the rates after that, counted from its own first step.
    """

    first: RateSchedule
    then: RateSchedule

    def before_cooldown(self, step: int) -> float:
        """The rate of the phase of ``step``."""
        after = step - self.first.total_steps
        return self.first(step) if after < 0 else self.then(after)


def in_two_phases(first: RateSchedule, then: RateSchedule) -> TwoPhaseSchedule:
    """``first`` as long as it is, ``then`` after it."""
    total_steps = first.total_steps + then.total_steps
    return TwoPhaseSchedule(
        lr=first.lr, warmup_lr=first.warmup_lr, total_steps=total_steps, first=first, then=then
    )


@functools.lru_cache(maxsize=16)
def _noise(seed: int) -> float:
    """The first normal number of ``seed`` that is within :data:`NOISE_BOUND`."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        number: float = torch.randn(1, generator=generator).item()
        if abs(number) < NOISE_BOUND:
            return number


def _cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` at progress 0 to ``end`` at 1."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


WARMUP_SCHEDULES: dict[str, type[WarmupSchedule]] = {
    "cosine": CosineSchedule,
    "automl": AutomlSchedule,
    "step": StepSchedule,
    "polynomial": PolynomialSchedule,
    "constant": ConstantSchedule,
}


def build_schedule(
    *,
    kind: Schedule = "cosine",
    lr: float,
    warmup_lr: float,
    warmup_epochs: float,
    min_lr: float = 0.0,
    epochs: int,
    cooldown_epochs: int = 0,
    steps_per_epoch: int,
    global_batch: int,
    noise: tuple[float, float] | None = None,
    seed: int = 0,
) -> RateSchedule:
    """The schedule of a run, its rates scaled from :data:`REFERENCE_BATCH` to ``global_batch``.

    Args:
        kind: how the rate falls.
        lr: the full rate at :data:`REFERENCE_BATCH`.
        warmup_lr: rate of the first step (``nvidia``: of the first epoch), scaled alike.
        warmup_epochs: length of the warm-up; at most half of ``epochs`` is used.
        min_lr: rate at the end of ``cosine`` and ``nvidia`` and of any cool-down, scaled alike.
        epochs: epochs before the cool-down.
        cooldown_epochs: epochs at ``min_lr`` after them.
        steps_per_epoch: optimizer steps an epoch.
        global_batch: images of all processes that make one step.
        noise: part of ``epochs``, 0-1, in which the rate of ``nvidia`` is noisy.
        seed: of that noise.
    """
    scale = global_batch / REFERENCE_BATCH
    decay_steps, cooldown_steps = epochs * steps_per_epoch, cooldown_epochs * steps_per_epoch
    values: dict[str, Any] = {
        "lr": lr * scale,
        "warmup_lr": warmup_lr * scale,
        "min_lr": min_lr * scale,
        "total_steps": decay_steps + cooldown_steps,
        "cooldown_steps": cooldown_steps,
    }
    if kind == "nvidia":
        return NvidiaSchedule(
            warmup_epochs=min(warmup_epochs, epochs / 2),
            steps_per_epoch=steps_per_epoch,
            noise=None if noise is None else (noise[0] * epochs, noise[1] * epochs),
            seed=seed,
            **values,
        )
    warmup_steps = min(round(warmup_epochs * steps_per_epoch), decay_steps // 2)
    return WARMUP_SCHEDULES[kind](warmup_steps=warmup_steps, **values)
