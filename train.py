# SPDX-License-Identifier: Apache-2.0
"""Train an EfficientDet.

    python train.py --data DIR --model efficientdet_d0 --output runs/mine
    torchrun --nproc-per-node 8 train.py --data DIR --amp

Without ``--data`` the built-in set of shapes is used; ``--help`` lists every option.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet import __version__, distributed, flags
from effdet.anchors import build_anchors, num_anchors
from effdet.config import ModelConfig, TrainConfig, select_postprocess
from effdet.data import (
    CocoDataset,
    EvalTransform,
    Loader,
    TrainTransform,
    build_eval_loader,
    build_train_loader,
    locate_split,
)
from effdet.errors import UsageError, run
from effdet.evaluation import CocoEvaluator, GroundTruth, evaluate
from effdet.losses import DetectionLoss
from effdet.metrics import RunLog
from effdet.models import EfficientDet, build_model, trainable_parameters
from effdet.postprocess import Postprocess
from effdet.precision import autocast_dtype, build_scaler
from effdet.presets import PRESETS
from effdet.structures import ClassMap
from effdet.training import (
    BEST,
    Checkpointer,
    ModelEma,
    Trainer,
    build_optimizer,
    build_schedule,
    create_run_folder,
    load_resumed,
    resume_path,
    seed_epoch,
    train_one_epoch,
)
from effdet.weights import load_backbone, load_detector_weights


def main() -> None:
    """Read the options, train, and leave a run folder."""
    config = flags.parse(
        TrainConfig,
        sys.argv[1:],
        program="train.py",
        description="Train an EfficientDet on a data set in COCO layout.",
        presets=PRESETS,
        saved=saved_config,
    )
    device = distributed.pick_device(config.device)
    with distributed.process_group(device):
        train(config, device)


def train(config: TrainConfig, device: torch.device) -> None:
    """The whole run, on every process."""
    torch.manual_seed(config.seed)

    # Data and model
    train_set, val_set = build_datasets(config)
    class_map, truth = train_set.class_map, GroundTruth.load(val_set.annotations)
    model_config = config.model_config(num_classes=len(class_map))
    train_loader, val_loader = build_loaders(config, model_config, train_set, val_set, device)
    model = build_model(model_config, channels_last=config.channels_last)
    origin = load_initial_weights(model, config, class_map)
    model.to(device)

    # What it is trained towards
    anchors = build_anchors(model_config, device=device)
    postprocess = Postprocess(
        anchors=anchors, config=select_postprocess(config), class_map=class_map
    )

    # Optimization
    trainer = build_trainer(config, model, anchors, len(train_loader), device)
    folder = open_folder(config)
    checkpointer = Checkpointer(folder, config, model_config, class_map)
    first_epoch = 1
    if config.resume is not None:
        first_epoch = checkpointer.restore(
            trainer, load_resumed(config.resume), resume_path(config.resume), len(train_loader)
        )

    with RunLog(folder, epochs=config.epochs, steps_per_epoch=len(train_loader)) as log:
        log.resume_at(trainer.step)
        introduce(log, config, model, train_set, val_set, train_loader, device)
        log.say(f"weights  {origin}")
        for epoch in range(first_epoch, config.epochs + 1):
            train_loader.set_epoch(epoch)
            seed_epoch(config.seed, epoch)
            log.begin_epoch(epoch)
            values = train_one_epoch(
                trainer, train_loader, log_every=config.log_every, report=log.step
            )
            figures: Mapping[str, float | None] = {}
            if epoch % config.eval_every == 0 or epoch == config.epochs:
                log.status("validating")
                evaluator = CocoEvaluator(truth, class_map, config.evaluator)
                figures = evaluate(
                    trainer.weights_to_validate(),
                    val_loader,
                    postprocess,
                    evaluator,
                    device=device,
                    dtype=trainer.dtype,
                    channels_last=config.channels_last,
                ).figures
            checkpointer.save(trainer, epoch, figures)
            log.end_epoch(values, figures)
        log.finish({"best_AP": checkpointer.best})
        log.say(f"weights in {folder}; validate them with:")
        log.say(f"    python validate.py --data {config.data} --weights {folder}/{BEST}")


RESUMABLE = {
    "resume", "device", "workers", "data", "train_annotations", "train_images", "val_annotations",
    "val_images", "eval_every", "log_every", "evaluator", "epochs", "batch_size",
}  # fmt: skip
"""What may change when a run goes on; the rest is part of what it is."""


def saved_config(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the run that ``--resume`` continues.

    Raises:
        UsageError: where an option beside ``--resume`` would make it another run.
    """
    if "resume" not in given:
        return {}
    for name in given:
        if name not in RESUMABLE:
            raise UsageError(
                f"--{name.replace('_', '-')} cannot change when a run goes on; for a new run give "
                "--weights and --output instead of --resume"
            )
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    saved: Mapping[str, Any] = load_resumed(given["resume"]).training["config"]
    return {name: value for name, value in saved.items() if name in known}


def build_datasets(config: TrainConfig) -> tuple[CocoDataset, CocoDataset]:
    """The training set, whose categories are the classes, and the validation set."""
    train_files = locate_split(
        config.data, config.train_split, config.train_annotations, config.train_images
    )
    val_files = locate_split(
        config.data, config.val_split, config.val_annotations, config.val_images
    )
    train_set = CocoDataset(*train_files)
    return train_set, CocoDataset(*val_files, class_map=train_set.class_map)


def build_loaders(
    config: TrainConfig,
    model_config: ModelConfig,
    train_set: CocoDataset,
    val_set: CocoDataset,
    device: torch.device,
) -> tuple[Loader, Loader]:
    """Augmented, shuffled batches to train on, and letterboxed ones to validate on."""
    model_input = (model_config.image_size, model_config.mean, model_config.std)
    jitter = (config.jitter_min, config.jitter_max)
    loading: dict[str, Any] = {
        "batch_size": config.batch_size,
        "num_workers": distributed.num_workers(config.workers),
        "device": device,
    }
    augment = TrainTransform(*model_input, jitter=jitter, flip=config.flip)
    return (
        build_train_loader(train_set, augment, seed=config.seed, **loading),
        build_eval_loader(val_set, EvalTransform(*model_input), **loading),
    )


def build_trainer(
    config: TrainConfig,
    model: EfficientDet,
    anchors: Tensor,
    steps_per_epoch: int,
    device: torch.device,
) -> Trainer:
    """Loss, optimizer, schedule, scaler and weight average around ``model``."""
    dtype = autocast_dtype(device, config.amp, config.amp_dtype)
    return Trainer(
        model=distributed.wrap(model, device),
        criterion=DetectionLoss(
            anchors,
            alpha=config.alpha,
            gamma=config.gamma,
            label_smoothing=config.label_smoothing,
            box_loss_weight=config.box_loss_weight,
        ),
        optimizer=build_optimizer(
            model,
            kind=config.optimizer,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        ),
        schedule=build_schedule(
            lr=config.lr,
            warmup_lr=config.warmup_lr,
            warmup_epochs=config.warmup_epochs,
            epochs=config.epochs,
            steps_per_epoch=steps_per_epoch,
            global_batch=config.batch_size * distributed.world_size(),
            kind=config.schedule,
        ),
        scaler=build_scaler(device, dtype),
        ema=ModelEma(model, config.ema_decay) if config.ema_decay > 0 else None,
        device=device,
        dtype=dtype,
        channels_last=config.channels_last,
        clip_norm=config.clip_norm,
        freeze_bn=config.freeze_bn,
    )


def open_folder(config: TrainConfig) -> Path | None:
    """The run folder with its ``config.yaml``; None on all processes but the first."""
    if not distributed.is_main():
        return None
    if config.resume is not None:
        return resume_path(config.resume).parent
    folder = create_run_folder(config.output, config.model)
    flags.save_yaml(config, folder / "config.yaml", leave_out=("output",))
    return folder


def introduce(
    log: RunLog,
    config: TrainConfig,
    model: EfficientDet,
    train_set: CocoDataset,
    val_set: CocoDataset,
    train_loader: Loader,
    device: torch.device,
) -> None:
    """Say what is about to be trained on what."""
    log.parameters(dataclasses.asdict(config))
    world = distributed.world_size()
    size = " x ".join(map(str, model.config.image_size))
    log.say(f"effdet {__version__}  torch {torch.__version__}  {device} x {world}")
    log.say(f"train    {train_set.report}")
    if train_loader.num_dropped:
        log.say(f"         {train_loader.num_dropped} images left over, others each epoch")
    log.say(f"val      {val_set.report}")
    log.say(
        f"model    {config.model}  {trainable_parameters(model):,} parameters  input {size}  "
        f"{num_anchors(model.config):,} anchors  {model.config.num_classes} classes"
    )
    log.say(f"run      {log.folder}  {config.epochs} epochs  batch {config.batch_size} x {world}")


def load_initial_weights(model: EfficientDet, config: TrainConfig, class_map: ClassMap) -> str:
    """Fill the model from the weights that were asked for; one line says what was taken."""
    if config.resume is not None:
        return f"as saved by the run in {config.resume}"
    if config.weights is not None:
        return load_detector_weights(model, class_map, config.weights)
    if config.backbone_weights is not None:
        return load_backbone(model, config.backbone_weights)
    return "random"


if __name__ == "__main__":
    run(main, "train.py")
