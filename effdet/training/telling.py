# SPDX-License-Identifier: Apache-2.0
"""What a run says of itself at its beginning and at its end."""

import dataclasses
import shlex
from pathlib import Path

import torch

from effdet import __version__, distributed
from effdet.anchors import num_anchors
from effdet.config import ModelConfig
from effdet.counts import counted
from effdet.data import CocoDataset, Loader
from effdet.metrics import RunLog
from effdet.models import trainable_parameters
from effdet.precision import slow_amp_warning
from effdet.run_files import BEST
from effdet.scripts import script
from effdet.settings import TrainConfig
from effdet.training.engine import Trainer
from effdet.training.epochs import out_of_patience
from effdet.training.progress import Progress
from effdet.training.resume import Run


def introduce(
    log: RunLog,
    config: TrainConfig,
    model_config: ModelConfig,
    trainer: Trainer,
    train_set: CocoDataset,
    val_set: CocoDataset,
    train_loader: Loader,
) -> None:
    """Say what is about to be trained on what."""
    world = distributed.world_size()
    log.parameters(dataclasses.asdict(config))
    log.environment(trainer.device, world)
    size = " x ".join(map(str, model_config.image_size))
    log.say(f"effdet {__version__}  torch {torch.__version__}  {trainer.device} x {world}")
    log.say(f"train    {train_set.report}")
    if train_loader.num_dropped:
        dropped = counted(train_loader.num_dropped, "image")
        log.say(f"         {dropped} that fill no batch left out, others each epoch")
    log.say(f"val      {val_set.report}")
    if not val_set.report.boxes:
        log.warn(f"{val_set.annotations}: there is no box to be found; all figures will be empty")
    parameters = sum(p.numel() for p in trainer.bare_model.parameters())
    log.say(
        f"model    {config.model}  {parameters:,} parameters  "
        f"input {size}  {num_anchors(model_config):,} anchors  "
        f"{counted(model_config.num_classes, 'class', 'classes')}"
    )
    if config.freeze:
        learning = trainable_parameters(trainer.bare_model)
        log.say(f"freeze   {' '.join(config.freeze)}  {learning:,} parameters learn")
    batch = f"{config.batch_size} x {world}"
    if config.accumulate > 1:
        batch += f" x {config.accumulate} accumulated"
    epochs = counted(config.total_epochs, "epoch")
    if config.eval_every > 1:
        epochs += f", validated every {config.eval_every} and at the end"
    log.say(f"run      {log.folder}  {epochs}  batch {batch}")
    if (warning := slow_amp_warning(trainer.device, trainer.dtype)) is not None:
        log.warn(warning)


def conclude(log: RunLog, config: TrainConfig, progress: Progress, run: Run) -> None:
    """Say how the run ended and what to do next."""
    if out_of_patience(config, progress):
        log.say(f"no higher AP in {counted(progress.stale, 'validation')}: the run ends here")
    log.finish({"best_AP": progress.best_ap})
    _tell_bad_images(log, progress)
    log.say(f"weights in {run.folder}; validate them with:")
    log.say(f"    {validate_command(config, run.folder)}")
    log.say(f"next: {shlex.join(['effdet', 'report', str(run.folder)])}")


def validate_command(config: TrainConfig, folder: Path) -> str:
    """The command that validates the best weights in ``folder`` as the run has done."""
    program = script("validate.py")
    words = ["python", program, "--data", config.data, "--weights", str(folder / BEST)]
    for flag, value, usual in (
        ("--split", config.val_split, "val"),
        ("--annotations", config.val_annotations, None),
        ("--images", config.val_images, None),
    ):
        if value is not None and value != usual:
            words += [flag, value]
    return shlex.join([*words, "--follow-links"] if config.follow_links else words)


def _tell_bad_images(log: RunLog, progress: Progress) -> None:
    """Say how many images could not be used, if any."""
    train, val = (progress.records[split] for split in ("train", "val"))
    if train.bad:
        log.say(
            f"{len(train.bad)} of {counted(train.total, 'training image')} bad: others took their "
            "places"
        )
    if val.bad:
        log.say(
            f"{len(val.bad)} of {counted(val.total, 'validation image')} bad: AP is without them, "
            "too low"
        )
    if train.bad or val.bad:
        log.say(f"each is named in {log.folder}/log.jsonl")
