# SPDX-License-Identifier: Apache-2.0
"""What happens between two steps of a run."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from effdet import distributed
from effdet.errors import DivergedError, EffdetError, SignalError
from effdet.metrics import RunLog
from effdet.structures import Batch
from effdet.training.checkpoint import FAILED_SAVES, Checkpointer
from effdet.training.control import Control
from effdet.training.engine import AnomalyError, Trainer
from effdet.training.peers import Peers
from effdet.training.progress import Progress
from effdet.training.replay import keep_batches


@dataclass(kw_only=True, eq=False)
class Attendant:
    """Says that the run is alive, saves when it is time, and ends the run when it is told to.

    Every process has one and calls it equally often.

    Attributes:
        trainer: the state that is saved.
        progress: where the run is.
        checkpointer: writes it.
        control: what all processes agreed on.
        peers: the watch over the processes.
        log: the record of the run.
        step_images: images of all processes in a step.
    """

    trainer: Trainer
    progress: Progress
    checkpointer: Checkpointer
    control: Control
    peers: Peers
    log: RunLog
    step_images: int

    def after_step(self, images: int) -> None:
        """A training step has used ``images`` images of all processes.

        Raises:
            SignalError: where a signal asks the run to end; its state is saved.
        """
        self.progress.images += images
        self.log.tick(self.progress.images // self.step_images)
        self._attend("training")

    # The evaluation runs in inference mode, whose tensors could not be trained with later.
    @torch.inference_mode(False)
    def during_validation(self) -> None:
        """A batch is validated; the same as between steps."""
        self._attend("validation")

    def announced(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, while the other processes are told whether this one waits for them.

        Bad images among them are warned of.
        """
        iterator = iter(batches)
        while True:
            self.peers.beat(self.trainer.step, "loading data")
            batch = next(iterator, None)
            if batch is None:
                return
            self.peers.beat(self.trainer.step, "training")
            self._warn_of_images()
            yield batch

    def share_images(self, split: str) -> int:
        """Bring together which images of ``split`` no process could use, and warn of them.

        Every process must call it.

        Returns:
            How many there are.

        Raises:
            DataError: on all processes, where there are too many.
        """
        record = self.progress.records[split]
        record.share()
        self._warn_of_images()
        return len(record.bad)

    def _warn_of_images(self) -> None:
        for record in self.progress.records.values():
            for text in record.news():
                self.log.warn(text)
        self.log.bad_images = sum(len(record.bad) for record in self.progress.records.values())

    @contextlib.contextmanager
    def keeping_diverged(
        self, folder: Path, names_of: Callable[[list[int]], list[str]]
    ) -> Iterator[None]:
        """Around an epoch: a run that diverges leaves its state and the batches of its last step.

        Args:
            folder: the run folder, on all processes.
            names_of: image ids to file names, for the error.
        """
        try:
            yield
        except DivergedError as error:
            if not error.batches:
                raise
            if not isinstance(error, AnomalyError):  # which leaves a step half done
                self.progress.images += self.step_images
                self.save()
            where = {"epoch": self.progress.epoch, "step": self.trainer.step}
            raise keep_batches(error, folder, names_of, **where) from error

    def save(self, **options: Any) -> None:
        """Write checkpoints; ``options`` are those of :meth:`Checkpointer.save`."""
        self.peers.beat(self.trainer.step, "saving")
        self.checkpointer.save(self.trainer, self.progress, self.log.history, **options)
        failures, best_lost = distributed.broadcast_from_main(
            (self.checkpointer.failures, self.checkpointer.best_lost)
        )
        if best_lost:
            self.progress.forget_best()  # best.pt still holds the one before
        self.control.failed = failures >= FAILED_SAVES
        self.peers.beat(self.trainer.step, "saved")

    def _attend(self, phase: str) -> None:
        self.peers.beat(self.trainer.step, phase)
        orders = self.control.poll()
        if orders.failed:
            raise EffdetError(f"{FAILED_SAVES} checkpoints in a row could not be written")
        if orders.signal or orders.save:
            self.save(must=orders.signal != 0)
        if orders.signal:
            folder = distributed.broadcast_from_main(self.log.folder)
            raise SignalError(
                orders.signal,
                f"ended by a signal and saved at step {self.trainer.step}; go on with "
                f"--resume {folder}",
            )
