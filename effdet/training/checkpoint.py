# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: ``last.pt`` to continue from, ``best.pt`` to use."""

import contextlib
import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effdet.config import ModelConfig, TrainConfig
from effdet.errors import WeightsError
from effdet.files import new_folder
from effdet.structures import ClassMap
from effdet.training.engine import Trainer
from effdet.weights import Checkpoint, load_checkpoint, load_state, save_checkpoint

LAST, BEST = "last.pt", "best.pt"


class Checkpointer:
    """Writes a run's checkpoints and brings a run back from one.

    Args:
        folder: the run folder; None (on all processes but the first) writes nothing.
        config: the run's settings.
        model_config: the model's.
        class_map: what its outputs mean.

    Attributes:
        best: highest AP so far.
    """

    def __init__(
        self,
        folder: Path | None,
        config: TrainConfig,
        model_config: ModelConfig,
        class_map: ClassMap,
    ) -> None:
        self.folder = folder
        self.config = config
        self.model_config = model_config
        self.class_map = class_map
        self.best = float("-inf")

    def save(self, trainer: Trainer, epoch: int, figures: Mapping[str, float | None]) -> None:
        """Write ``last.pt`` after ``epoch``, and ``best.pt`` where its AP is the highest so far.

        Args:
            trainer: the state to save.
            epoch: epochs done.
            figures: COCO figures of this epoch, empty where it was not validated.
        """
        is_best = bool(figures) and (ap := _ap(figures)) > self.best
        if is_best:
            self.best = ap
        if self.folder is None:
            return
        checkpoint = Checkpoint(
            model_config=self.model_config,
            class_map=self.class_map,
            model=trainer.bare_model.state_dict(),
            ema=None if trainer.ema is None else trainer.ema.module.state_dict(),
            metrics={"epoch": epoch, **figures},
            training=self._training_state(trainer, epoch),
        )
        # The best first: last.pt names the best AP, and a run killed in between must not lose it.
        if is_best:
            save_checkpoint(dataclasses.replace(checkpoint, training={}), self.folder / BEST)
        save_checkpoint(checkpoint, self.folder / LAST)

    def restore(
        self, trainer: Trainer, checkpoint: Checkpoint, source: Path, steps_per_epoch: int
    ) -> int:
        """Put the state of ``checkpoint`` into ``trainer`` and return the next epoch, from 1.

        The schedule goes on where the epoch ended, also with another number of steps an epoch
        because more or fewer processes share the work.
        """
        training = checkpoint.training
        if checkpoint.class_map != self.class_map:
            raise WeightsError(
                f"{source}: the run was on other classes than the data has now; to start from its "
                "weights use --weights"
            )
        load_state(trainer.bare_model, checkpoint.model, source)
        if trainer.ema is not None and checkpoint.ema is not None:
            load_state(trainer.ema.module, checkpoint.ema, source)
        try:
            if trainer.ema is not None:
                trainer.ema.updates = training["ema_updates"]
            trainer.optimizer.load_state_dict(training["optimizer"])
            if training["scaler"] and trainer.scaler.is_enabled():
                trainer.scaler.load_state_dict(training["scaler"])
            trainer.step = training["epoch"] * steps_per_epoch
            self.best = float(training["best"])
            return int(training["epoch"]) + 1
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(f"{source}: damaged training state ({error!r})") from error

    def _training_state(self, trainer: Trainer, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "best": self.best,
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "ema_updates": 0 if trainer.ema is None else trainer.ema.updates,
            "config": dataclasses.asdict(self.config),
        }


def create_run_folder(output: str | None, name: str) -> Path:
    """Make the folder of a new run: ``output``, or the next free ``runs/NAME-N``.

    Raises:
        UsageError: where ``output`` holds something already.
    """
    if output is None:
        return _next_free(name)
    resumable = (Path(output) / LAST).is_file()
    advice = f"continue that run with --resume {output}" if resumable else "nothing was saved there"
    return new_folder(output, f"name another folder ({advice})")


def _next_free(name: str) -> Path:
    for number in itertools.count(1):
        folder = Path("runs") / f"{name}-{number}"
        # Making it is the test: two runs that start together must not share one.
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")


def resume_path(resume: str) -> Path:
    """The file that ``--resume`` means: itself, or the last checkpoint of a run folder."""
    return Path(resume) / LAST if Path(resume).is_dir() else Path(resume)


def load_resumed(resume: str) -> Checkpoint:
    """The checkpoint that ``--resume`` means.

    Raises:
        WeightsError: where there is none, or none to continue from.
    """
    path = resume_path(resume)
    checkpoint = load_checkpoint(path)
    if not checkpoint.training:
        raise WeightsError(
            f"--resume {path}: holds weights only; continue from {path.parent / LAST}, or start a "
            f"new run with --weights {path}"
        )
    if not isinstance(checkpoint.training.get("config"), dict):
        raise WeightsError(f"--resume {path}: damaged training state (no settings of the run)")
    return checkpoint


def _ap(figures: Mapping[str, float | None]) -> float:
    ap = figures["AP"]
    return -1.0 if ap is None else ap
