# SPDX-License-Identifier: Apache-2.0
"""One step and one epoch of training."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effdet import distributed
from effdet.errors import EffdetError
from effdet.losses import DetectionLoss
from effdet.precision import autocast
from effdet.structures import Batch
from effdet.training.ema import ModelEma
from effdet.training.schedule import CosineSchedule


@dataclass(kw_only=True, eq=False)
class Trainer:
    """What a training step needs, and the step count that goes through all epochs.

    Attributes:
        model: the model, wrapped for distributed training or not.
        criterion: predictions and targets to losses.
        optimizer: over the model's parameters.
        schedule: the learning rate of each step.
        scaler: the loss scaler, disabled without float16.
        ema: the weight average, None for none.
        device: where the work is done.
        dtype: mixed-precision type, None for full precision.
        channels_last: memory format of the images.
        clip_norm: largest global gradient norm.
        freeze_bn: keep batch norms in evaluation mode.
        step: steps done.
    """

    model: nn.Module
    criterion: DetectionLoss
    optimizer: torch.optim.Optimizer
    schedule: CosineSchedule
    scaler: torch.amp.GradScaler
    ema: ModelEma | None
    device: torch.device
    dtype: torch.dtype | None = None
    channels_last: bool = True
    clip_norm: float = 10.0
    freeze_bn: bool = False
    step: int = 0

    @property
    def bare_model(self) -> nn.Module:
        """The model without the wrapper of distributed training."""
        if isinstance(self.model, nn.parallel.DistributedDataParallel):
            return self.model.module
        return self.model

    def weights_to_validate(self) -> nn.Module:
        """The averaged model where there is one, else the model; equal on all processes."""
        model = self.bare_model if self.ema is None else self.ema.module
        distributed.synchronize_buffers(model)
        return model

    def set_train_mode(self) -> None:
        """Training mode, with batch norms left in evaluation mode where they are frozen."""
        self.model.train()
        if self.freeze_bn:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, backward, update; the losses and the gradient norm stay on the device."""
        self.schedule.apply(self.optimizer, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.backward(batch)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            # The scaler skips the step where a gradient, and so their norm, is not finite.
            found_inf = (~norm.isfinite()).float() if self.scaler.is_enabled() else None
            self.ema.update(self.bare_model, found_inf)
        self.step += 1
        return {name: loss.detach() for name, loss in losses.items()} | {"grad_norm": norm}

    def loss_scale(self) -> Tensor | None:
        """What the scaler will multiply the loss by; None without a scaler."""
        if not self.scaler.is_enabled():
            return None
        return self.scaler.scale(torch.ones((), device=self.device))

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of one batch and, in the parameters, their scaled gradients."""
        batch = batch.to(self.device, self.channels_last)
        with autocast(self.device, self.dtype):
            cls_logits, box_deltas = self.model(batch.images)
        losses = self.criterion(cls_logits, box_deltas, batch.targets, self.loss_scale())
        self.scaler.scale(losses["loss"]).backward()
        return losses


class Meter:
    """Means over steps; values leave the device only when they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.data_seconds = 0.0
        self.start = time.perf_counter()

    def add(self, values: dict[str, Tensor], images: int, data_seconds: float) -> None:
        """Count one step of ``images`` images that waited ``data_seconds`` for them."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1
        self.images += images
        self.data_seconds += data_seconds

    def means(self) -> dict[str, float]:
        """Mean values over steps and processes, images a second of all, share of waiting."""
        if self.steps == 0:
            return {}
        world, seconds = distributed.world_size(), time.perf_counter() - self.start
        total = distributed.all_reduce_sum(torch.stack(list(self.sums.values())))
        means = (total / (self.steps * world)).tolist()
        return dict(zip(self.sums, means, strict=True)) | {
            "images_per_second": self.images * world / seconds,
            "data_share": self.data_seconds / seconds,
        }


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed what is drawn in ``epoch`` (stochastic depth), so that a resumed run repeats it."""
    torch.manual_seed((seed * 1_000_003 + epoch) * 4_096 + distributed.rank())


def train_one_epoch(
    trainer: Trainer,
    loader: Iterable[Batch],
    *,
    log_every: int,
    report: Callable[[int, dict[str, float]], None],
) -> dict[str, float]:
    """Train on every batch of ``loader`` once.

    Args:
        trainer: model, loss, optimizer and the rest.
        loader: the batches of this epoch.
        log_every: steps between reports.
        report: called with the steps done in this epoch and the mean values since the last call.

    Returns:
        Means over the epoch: losses, gradient norm, images a second, share of time without data.

    Raises:
        EffdetError: when the loss is not finite.
    """
    trainer.set_train_mode()
    epoch, recent = Meter(), Meter()
    ready = time.perf_counter()
    for batch in loader:
        waited = time.perf_counter() - ready
        values = trainer.train_step(batch)
        for meter in (epoch, recent):
            meter.add(values, len(batch), waited)
        if epoch.steps % log_every == 0:
            rate = trainer.schedule(trainer.step - 1)
            report(epoch.steps, _checked(recent.means(), trainer.step) | {"lr": rate})
            recent = Meter()
        ready = time.perf_counter()
    return _checked(epoch.means(), trainer.step)


def _checked(means: dict[str, float], step: int) -> dict[str, float]:
    if not math.isfinite(means.get("loss", 0.0)):
        raise EffdetError(
            f"the loss is {means['loss']} near step {step}: lower --lr, lengthen --warmup-epochs, "
            "or train without --amp"
        )
    return means
