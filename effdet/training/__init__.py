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
from effdet.training.ema import ModelEma
from effdet.training.engine import Trainer, seed_epoch, train_one_epoch
from effdet.training.freeze import Freezing, freeze, plan_freezing, rate_factors
from effdet.training.launcher import report
from effdet.training.meter import Meter
from effdet.training.optimizer import build_optimizer
from effdet.training.peers import Peers
from effdet.training.progress import Progress
from effdet.training.replay import load_batches, save_batches
from effdet.training.resume import Resumed, Run, goes_on, open_run, saved_settings
from effdet.training.run_folder import BEST, LAST
from effdet.training.schedule import RateSchedule, build_schedule

__all__ = [
    "BEST",
    "LAST",
    "Attendant",
    "Checkpointer",
    "Control",
    "Freezing",
    "Meter",
    "ModelEma",
    "Orders",
    "Peers",
    "Progress",
    "RateSchedule",
    "Resumed",
    "Run",
    "Trainer",
    "build_optimizer",
    "build_schedule",
    "build_trainer",
    "explain_memory_errors",
    "freeze",
    "goes_on",
    "load_batches",
    "open_run",
    "plan_freezing",
    "rate_factors",
    "report",
    "save_batches",
    "saved_settings",
    "schedule_of",
    "seed_epoch",
    "train_one_epoch",
    "with_batch_size",
]
