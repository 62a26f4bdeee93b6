# SPDX-License-Identifier: Apache-2.0
"""From the settings of a run to the objects that train: optimizer, schedule, loss, batch size."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from effdet import distributed
from effdet.anchors import Anchors
from effdet.losses import DetectionLoss
from effdet.models import EfficientDet
from effdet.precision import autocast_dtype, build_scaler
from effdet.settings import Schedule, TrainConfig
from effdet.training.batch_size import explained_memory_errors, find_batch_size
from effdet.training.ema import ModelEma
from effdet.training.engine import Trainer
from effdet.training.freeze import rate_factors
from effdet.training.optimizer import build_optimizer
from effdet.training.resume import Resumed
from effdet.training.schedule import RateSchedule, build_schedule, in_two_phases
from effdet.training.sync_bn import synchronize_batch_norm

LARGEST_BATCH = 4096
"""Images at most that ``--batch-size auto`` tries."""


def with_batch_size(
    config: TrainConfig,
    model: EfficientDet,
    anchors: Anchors,
    image_size: tuple[int, int],
    device: torch.device,
    resumed: Resumed | None,
) -> TrainConfig:
    """``config`` with a number where it has ``--batch-size auto``, the same on all processes.

    A run that goes on keeps the number that it began with.
    """
    if config.batch_size != "auto":
        return config
    if resumed is not None:
        found = resumed.checkpoint.training["config"]["batch_size"]
        return dataclasses.replace(config, batch_size=found)
    # The wrapper of distributed training would talk to processes that try another size.
    smallest = config.smallest_batch
    one = dataclasses.replace(config, batch_size=smallest, normalizer="process", sync_bn=1)
    trainer = build_trainer(one, model, anchors, 1, device, alone=True)
    found = find_batch_size(
        lambda size: trainer.rehearse(image_size, size, 1),
        model=model,
        optimizer=trainer.optimizer,
        device=device,
        smallest=smallest,
        limit=LARGEST_BATCH,
    )
    return dataclasses.replace(config, batch_size=found)


def build_trainer(
    config: TrainConfig,
    model: EfficientDet,
    anchors: Anchors,
    steps_per_epoch: int,
    device: torch.device,
    *,
    alone: bool = False,
) -> Trainer:
    """Loss, optimizer, schedule, scaler and weight average around ``model``.

    ``alone``, it is not wrapped for distributed training.
    """
    dtype = autocast_dtype(device, config.amp, config.amp_dtype)
    # Optimizer and average hold the model's tensors, which stay the same when it is wrapped.
    optimizer = build_optimizer(
        model,
        kind=config.optimizer,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        factors=rate_factors(model, config.factors),
    )
    ema = ModelEma(model, config.ema_decay) if config.ema_decay > 0 else None
    synchronized = synchronize_batch_norm(model, config.sync_bn, device)
    return Trainer(
        model=synchronized if alone else distributed.wrap(synchronized, device),
        criterion=DetectionLoss(
            anchors,
            alpha=config.alpha,
            gamma=config.gamma,
            label_smoothing=config.label_smoothing,
            box_loss_weight=config.box_loss_weight,
            share=config.normalizer,
        ),
        optimizer=optimizer,
        schedule=schedule_of(config, steps_per_epoch, distributed.world_size()),
        scaler=build_scaler(device, dtype),
        ema=ema,
        device=device,
        dtype=dtype,
        channels_last=config.channels_last,
        clip_norm=config.clip_norm,
        freeze_bn=config.freeze_bn,
        max_nonfinite=config.max_nonfinite,
    )


def schedule_of(config: TrainConfig, steps_per_epoch: int, processes: int) -> RateSchedule:
    """The learning rate of every step of the run."""

    def build(kind: Schedule, epochs: int, *, factor: float = 1.0, **options: Any) -> RateSchedule:
        return build_schedule(
            kind=kind,
            lr=config.lr * factor,
            warmup_lr=config.warmup_lr * factor,
            warmup_epochs=config.warmup_epochs,
            min_lr=config.min_lr * factor,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            global_batch=config.images_per_step(processes),
            **options,
        )

    options: dict[str, Any] = {
        "cooldown_epochs": config.cooldown_epochs, "noise": config.lr_noise, "seed": config.seed
    }  # fmt: skip
    if not config.freeze_epochs:
        return build(config.schedule, config.epochs, **options)
    epochs, factor = config.epochs - config.freeze_epochs, config.unfreeze_lr_factor
    return in_two_phases(
        build("constant", config.freeze_epochs),
        build(config.schedule, epochs, factor=factor, **options),
    )


def explain_memory_errors(
    config: TrainConfig, image_size: tuple[int, int], device: torch.device
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Makes contexts in which a batch that does not fit is an error that says what to change."""
    return functools.partial(
        explained_memory_errors,
        batch_size=config.images_per_pass,
        accumulate=config.accumulate,
        image_size=image_size,
        amp=config.amp,
        device=device,
    )
