# SPDX-License-Identifier: Apache-2.0
"""The training loop and what it needs."""

from effdet.training.checkpoint import (
    BEST,
    Checkpointer,
    create_run_folder,
    load_resumed,
    resume_path,
)
from effdet.training.ema import ModelEma
from effdet.training.engine import Trainer, seed_epoch, train_one_epoch
from effdet.training.optimizer import build_optimizer
from effdet.training.schedule import CosineSchedule, build_schedule

__all__ = [
    "BEST",
    "Checkpointer",
    "CosineSchedule",
    "ModelEma",
    "Trainer",
    "build_optimizer",
    "build_schedule",
    "create_run_folder",
    "load_resumed",
    "resume_path",
    "seed_epoch",
    "train_one_epoch",
]
