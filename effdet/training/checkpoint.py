# SPDX-License-Identifier: Apache-2.0
"""What a run saves and how it comes back from there."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from effdet import distributed
from effdet.config import ModelConfig
from effdet.counts import counted
from effdet.errors import UsageError, WeightsError, shown
from effdet.settings import TrainConfig
from effdet.structures import ClassMap
from effdet.training.engine import Trainer
from effdet.training.progress import Progress, random_state, set_random_state
from effdet.training.run_folder import save_best, save_epoch, save_last
from effdet.training.saved_state import (
    check_counts,
    check_history,
    check_scaler,
    own_optimizer_state,
)
from effdet.weights import Checkpoint, load_state

FAILED_SAVES = 3
"""Checkpoints in a row that could not be written before a run gives up."""


_FROM_TORCH = (RuntimeError, ArithmeticError, AssertionError)


class Checkpointer:
    """Writes a run's checkpoints and brings a run back from one.

    All processes call its methods at the same step; only the main one writes.

    Args:
        folder: the run folder; None on all processes but the first.
        config: the run's settings.
        model_config: the model's.
        class_map: what its outputs mean.
        steps_per_epoch: with the processes and batches of now.
        warn: takes one line for the person who watches.

    Attributes:
        failures: saves in a row that failed.
        best_lost: whether the last save should have written ``best.pt`` and could not.
    """

    def __init__(
        self,
        folder: Path | None,
        config: TrainConfig,
        model_config: ModelConfig,
        class_map: ClassMap,
        steps_per_epoch: int,
        warn: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.config = config
        self.model_config = model_config
        self.class_map = class_map
        self.steps_per_epoch = steps_per_epoch
        self.warn = warn
        self.failures = 0
        self.best_lost = False

    def save(
        self,
        trainer: Trainer,
        progress: Progress,
        history: Sequence[Mapping[str, Any]],
        figures: Mapping[str, Any] = MappingProxyType({}),
        *,
        is_best: bool = False,
        must: bool = False,
    ) -> None:
        """Write ``last.pt``, ``best.pt`` and, where this epoch is to be kept, ``epoch-N.pt``.

        A disk that is full for a while costs a warning: ``last.pt`` stays as it was.

        Args:
            trainer: the state to save.
            progress: where it goes on.
            history: a row of values an epoch.
            figures: of the epoch that has just ended, where it was validated.
            is_best: whether they are the best so far.
            must: let an error through, since there is no later try.

        Raises:
            EffdetError: on the main process, where it cannot be written and ``must`` is set.
        """
        ranks = distributed.gather_to_main(
            {
                "random": random_state(trainer.device),
                "meter": progress.meter.state_dict(),
                "bad_images": progress.bad_images(),
            }
        )
        if self.folder is None or ranks is None:
            return
        ended = progress.images == 0
        checkpoint = Checkpoint(
            model_config=self.model_config,
            class_map=self.class_map,
            model=trainer.bare_model.state_dict(),
            ema=None if trainer.ema is None else trainer.ema.module.state_dict(),
            chosen=figures.get("weights", "raw" if trainer.ema is None else "ema"),
            metrics={"epoch": progress.epoch - ended, **figures},
            training=self._training_state(trainer, progress, history, ranks),
        )
        self.best_lost = is_best
        try:
            self._write(self.folder, checkpoint, is_best, ended)
        except OSError as error:
            self.failures += 1
            if must:
                raise
            self.warn(f"{error}; the run goes on, {FAILED_SAVES - self.failures} more tries")
        else:
            self.failures = 0

    def _write(self, folder: Path, checkpoint: Checkpoint, is_best: bool, ended: bool) -> None:
        # The best first: last.pt names the best AP, and a run killed in between must not lose it.
        if is_best:
            save_best(folder, checkpoint)
            self.best_lost = False
        save_last(folder, checkpoint)
        every, epoch = self.config.save_every, checkpoint.metrics["epoch"]
        if every and ended and epoch % every == 0:
            save_epoch(folder, checkpoint, epoch, self.config.keep)

    def restore(
        self, trainer: Trainer, progress: Progress, checkpoint: Checkpoint, source: Path
    ) -> list[dict[str, Any]]:
        """Put the state of ``checkpoint`` into ``trainer`` and ``progress``.

        With another number of processes the same images follow in the same order, cut into other
        batches; the schedule goes on at the same part of the run.

        Returns:
            The history of the run, a row an epoch.

        Raises:
            WeightsError: for a checkpoint of other classes, another model, or a damaged one.
            UsageError: where more epochs are done than the run shall have.
        """
        if checkpoint.class_map != self.class_map:
            raise WeightsError(
                f"{source}: the run was on other classes than the data has now; to start from its "
                "weights use --weights"
            )
        load_state(trainer.bare_model, checkpoint.model, source)
        if trainer.ema is not None and checkpoint.ema is not None:
            load_state(trainer.ema.module, checkpoint.ema, source)
        try:
            history = self._restore(trainer, progress, checkpoint.training)
        except (LookupError, TypeError, ValueError, AttributeError, *_FROM_TORCH) as error:
            raise WeightsError(f"{source}: damaged training state ({shown(error, 200)})") from error
        done, wanted = progress.epoch - 1, self.config.total_epochs
        if done > wanted:
            raise UsageError(
                f"{source}: the run has done {counted(done, 'epoch')}, but --epochs and "
                f"--cooldown-epochs are {wanted}; give more to train on, or validate.py "
                "for the weights"
            )
        return history

    def _training_state(
        self,
        trainer: Trainer,
        progress: Progress,
        history: Sequence[Mapping[str, Any]],
        ranks: list[Any],
    ) -> dict[str, Any]:
        return {
            "step": trainer.step,
            "skipped": list(trainer.skipped),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "steps_per_epoch": self.steps_per_epoch,
            "schedule": dataclasses.asdict(trainer.schedule),
            "ema_updates": 0 if trainer.ema is None else trainer.ema.updates,
            "history": [dict(row) for row in history],
            "ranks": ranks,
            "machine": self._circumstances(),
            "config": dataclasses.asdict(self.config),
            **progress.state_dict(),
        }

    def _restore(
        self, trainer: Trainer, progress: Progress, training: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        check_counts(training)
        check_history(training["history"])
        progress.load_state_dict(training)
        if trainer.ema is not None:
            trainer.ema.updates = training["ema_updates"]
        state = own_optimizer_state(trainer.optimizer, training["optimizer"])
        trainer.optimizer.load_state_dict(state)
        if training["scaler"] and trainer.scaler.is_enabled():
            check_scaler(training["scaler"])
            trainer.scaler.load_state_dict(training["scaler"])
        trainer.skipped = tuple(training["skipped"])
        # In steps of now: the same part of the run, also where an epoch has more or fewer.
        trainer.step = round(training["step"] * self.steps_per_epoch / training["steps_per_epoch"])
        ranks = training["ranks"]
        progress.restore_bad_images([rank.get("bad_images", {}) for rank in ranks])
        if len(ranks) == distributed.world_size():
            own = ranks[distributed.rank()]
            set_random_state(own["random"], trainer.device)
            progress.meter.load_state_dict(own["meter"], trainer.device)
        now = self._circumstances()
        differing = [
            f"{name} was {str(value)[:80]}, is {now.get(name)}"
            for name, value in training["machine"].items()
            if value != now.get(name)
        ]
        if differing:
            self.warn(f"not bit-equal to an uninterrupted run: {', '.join(differing)}")
        return [dict(row) for row in training["history"]]

    def _circumstances(self) -> dict[str, Any]:
        """The machine, and what of the settings may change when a run goes on."""
        images = self.config.images_per_step(distributed.world_size())
        return machine() | {"images a step": images}


def machine() -> dict[str, Any]:
    """What the last bits of a result depend on beside the settings."""
    return {
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
