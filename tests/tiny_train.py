# SPDX-License-Identifier: Apache-2.0
"""train.py with the tiny model, and a record of the images that each step uses.

torchrun --nproc-per-node N tests/tiny_train.py RECORD STOP_AT WORDS...

RECORD: a folder; each process appends a line of image ids a step to its file ``rank-R.txt``.
STOP_AT: ``K``, a SIGTERM to the last process at its K-th step (0: none); ``K!``: without
Trainer.rehearse.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import train
from effdet import distributed
from effdet.errors import run
from effdet.structures import Batch
from effdet.training import Trainer, build
from tests.tiny import tiny_model


class RecordingTrainer(Trainer):
    """Writes down what it trains on."""

    folder: Path
    stop_at = done = 0
    rehearses = True

    def train_step(self, batches: Sequence[Batch]) -> Any:
        ids = [str(target.image_id) for batch in batches for target in batch.targets]
        with (self.folder / f"rank-{distributed.rank()}.txt").open("a") as file:
            file.write(" ".join(ids) + "\n")
        RecordingTrainer.done += 1
        if self.done == self.stop_at and distributed.rank() == distributed.world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().train_step(batches)

    def rehearse(self, *arguments: Any) -> None:
        if self.rehearses:
            super().rehearse(*arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    record, stop_at, *words = sys.argv[1:]
    RecordingTrainer.folder = Path(record)
    RecordingTrainer.folder.mkdir(parents=True, exist_ok=True)
    RecordingTrainer.stop_at = int(stop_at.rstrip("!"))
    RecordingTrainer.rehearses = not stop_at.endswith("!")
    build.Trainer = RecordingTrainer  # type: ignore[misc]
    sys.argv[1:] = words
    with tiny_model():
        run(train.main, "train.py")
