# SPDX-License-Identifier: Apache-2.0
"""Where an epoch begins and ends, and with it the run."""

from collections.abc import Callable
from typing import Any

from effdet import distributed
from effdet.data import Loader
from effdet.metrics import RunLog
from effdet.models import trainable_parameters
from effdet.settings import TrainConfig
from effdet.training.attendant import Attendant
from effdet.training.checkpoint import Checkpointer
from effdet.training.engine import Trainer, seed_epoch
from effdet.training.progress import Progress
from effdet.training.resume import Resumed


def restore(
    resumed: Resumed | None, checkpointer: Checkpointer, trainer: Trainer, progress: Progress
) -> list[dict[str, Any]]:
    """The history of the run, with its state put back; nothing for a new one."""
    if resumed is None:
        return []
    return checkpointer.restore(trainer, progress, resumed.checkpoint, resumed.path)


def is_over(config: TrainConfig, progress: Progress) -> bool:
    """Whether all epochs are trained, or the run is given up."""
    return progress.epoch > config.total_epochs or out_of_patience(config, progress)


def out_of_patience(config: TrainConfig, progress: Progress) -> bool:
    """Whether there was no higher AP for so long that the run is given up."""
    return 0 < config.patience <= progress.stale


def begin_epoch(config: TrainConfig, progress: Progress, loader: Loader, log: RunLog) -> None:
    """Go to where the run is: the beginning of an epoch, or within one that was interrupted."""
    if progress.images == 0:  # within an epoch the random states are those that were saved
        seed_epoch(config.seed, progress.epoch)
    progress.begin_epoch()
    loader.set_position(progress.epoch, progress.images)
    log.begin_epoch(progress.epoch)


def begin_phase(
    trainer: Trainer, frozen: frozenset[str], rehearse: Callable[[], None], log: RunLog
) -> None:
    """Train all but ``frozen`` from now on, where that is not so already."""
    if trainer.freeze(frozen):
        if distributed.world_size() > 1:
            rehearse()
        log.say(f"         {trainable_parameters(trainer.bare_model):,} parameters learn now")


def end_epoch(attendant: Attendant, config: TrainConfig, figures: dict[str, Any]) -> bool:
    """Judge, log and save what the epoch has come to; ``figures`` are none without validation.

    Returns:
        Whether its weights are the best so far, and saved as such.
    """
    trainer, progress = attendant.trainer, attendant.progress
    means = progress.meter.means() | {"lr": trainer.schedule(trainer.step - 1)}
    means["bad_images"] = attendant.share_images("train")
    is_best = bool(figures) and progress.judge(figures["AP"])
    attendant.log.end_epoch(means, figures)
    progress.end_epoch()
    attendant.save(figures=figures, is_best=is_best, must=is_over(config, progress))
    return is_best and not attendant.checkpointer.best_lost
