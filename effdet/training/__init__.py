# SPDX-License-Identifier: Apache-2.0
"""The training loop and what it needs."""

from effdet.training.attendant import Attendant
from effdet.training.build import (
    build_trainer,
    explain_memory_errors,
    schedule_of,
    with_batch_size,
)
from effdet.training.checkpoint import Checkpointer
from effdet.training.control import Control, Orders
from effdet.training.data import build_datasets, build_loaders, image_sizes, locate_datasets
from effdet.training.ema import ModelEma
from effdet.training.engine import Trainer, seed_epoch, train_one_epoch
from effdet.training.epochs import begin_epoch, begin_phase, end_epoch, is_over, restore
from effdet.training.freeze import Freezing, freeze, plan_freezing, rate_factors
from effdet.training.initial import (
    Initial,
    freeze_parts,
    read_initial_weights,
    take_initial_weights,
)
from effdet.training.launcher import report_to_launcher, with_errors_for_launcher
from effdet.training.meter import Meter
from effdet.training.optimizer import build_optimizer
from effdet.training.peers import Peers
from effdet.training.progress import Progress
from effdet.training.replay import load_batches, save_batches
from effdet.training.resume import Run, open_run, saved_settings
from effdet.training.schedule import RateSchedule, build_schedule
from effdet.training.telling import conclude, introduce
from effdet.training.validation import validate

__all__ = [
    "Attendant",
    "Checkpointer",
    "Control",
    "Freezing",
    "Initial",
    "Meter",
    "ModelEma",
    "Orders",
    "Peers",
    "Progress",
    "RateSchedule",
    "Run",
    "Trainer",
    "begin_epoch",
    "begin_phase",
    "build_datasets",
    "build_loaders",
    "build_optimizer",
    "build_schedule",
    "build_trainer",
    "conclude",
    "end_epoch",
    "explain_memory_errors",
    "freeze",
    "freeze_parts",
    "image_sizes",
    "introduce",
    "is_over",
    "load_batches",
    "locate_datasets",
    "open_run",
    "plan_freezing",
    "rate_factors",
    "read_initial_weights",
    "report_to_launcher",
    "restore",
    "save_batches",
    "saved_settings",
    "schedule_of",
    "seed_epoch",
    "take_initial_weights",
    "train_one_epoch",
    "validate",
    "with_batch_size",
    "with_errors_for_launcher",
]
