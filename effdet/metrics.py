# SPDX-License-Identifier: Apache-2.0
"""What a run says: lines on the console, ``log.jsonl``, ``metrics.csv`` and ``status.json``."""

import csv
import importlib.util
import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

Step = tuple[int, ...]

# fmt: off
FIGURES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)
# fmt: on
"""COCO's twelve figures, in the order of COCOeval's ``stats``."""


class JsonBackend(Protocol):
    """The part of a dllogger backend that is used."""

    def log(
        self, timestamp: float, elapsedtime: float, step: Step | str, data: dict[str, Any]
    ) -> object:
        """Write one record."""

    def flush(self) -> object:
        """Write out what is buffered."""


class JsonLines:
    """dllogger's ``DLLL {...}`` lines, for where dllogger is not installed; appends."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a")

    def log(
        self, timestamp: float, elapsedtime: float, step: Step | str, data: dict[str, Any]
    ) -> None:
        """Write one record.

        Args:
            timestamp: seconds since 1970.
            elapsedtime: seconds since the start.
            step: ``(epoch, step)``, ``(epoch,)`` for an epoch, ``()`` for the run, or a word.
            data: finite numbers, words or None.
        """
        record = {
            "timestamp": f"{timestamp:.6f}",
            "datetime": str(datetime.fromtimestamp(timestamp, timezone.utc)),
            "elapsedtime": f"{elapsedtime:.6f}",
            "type": "LOG",
            "step": step,
            "data": data,
        }
        self.file.write(f"DLLL {json.dumps(record)}\n")

    def flush(self) -> None:
        """Write out what is buffered."""
        self.file.flush()


def build_json_backend(path: Path) -> JsonBackend:
    """dllogger's own writer where it is installed, else :class:`JsonLines`; both append."""
    if importlib.util.find_spec("dllogger") is None:
        return JsonLines(path)
    import dllogger

    backend: JsonBackend = dllogger.JSONStreamBackend(
        dllogger.Verbosity.DEFAULT, str(path), append=True
    )
    return backend


class RunLog:
    """The record of a training run: console, ``log.jsonl``, ``metrics.csv``, ``status.json``.

    Args:
        folder: the run folder; None (on all processes but the first) records nothing.
        epochs: of the whole run.
        steps_per_epoch: of each.
    """

    def __init__(self, folder: Path | None, *, epochs: int, steps_per_epoch: int) -> None:
        self.folder = folder
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.epoch = 0
        self.start = time.time()
        self._steps_before = 0
        self.backend = None if folder is None else build_json_backend(folder / "log.jsonl")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Leave word in ``status.json`` of a run that ended before its time."""
        if kind is not None:
            code = 130 if kind is KeyboardInterrupt else getattr(kind, "exit_code", 1)
            self.status("failed", error=f"{kind.__name__}: {error}", exit_code=code)

    def say(self, text: str) -> None:
        """Print ``text`` for the person who watches."""
        if self.folder is not None:
            print(text, flush=True)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Record the settings of the run."""
        self._write("PARAMETER", values)

    def resume_at(self, step: int) -> None:
        """Leave the ``step`` steps of an earlier start out of the estimate of the time left."""
        self._steps_before = step

    def begin_epoch(self, epoch: int) -> None:
        """What follows belongs to ``epoch``, counted from 1."""
        self.epoch = epoch
        self.status("training")

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Record mean ``values`` of the last steps; ``step`` are done in this epoch."""
        self._write((self.epoch, step), values)
        done = (self.epoch - 1) * self.steps_per_epoch + step
        per_step = (time.time() - self.start) / max(done - self._steps_before, 1)
        left = (self.epochs * self.steps_per_epoch - done) * per_step
        self.say(
            f"epoch {self.epoch}/{self.epochs}  step {step}/{self.steps_per_epoch}  "
            f"loss {values['loss']:.4f} (cls {values['cls_loss']:.4f} "
            f"box {values['box_loss']:.5f})  lr {values['lr']:.2e}  "
            f"grad {values['grad_norm']:.2f}  {values['images_per_second']:.1f} img/s  "
            f"data {values['data_share']:.0%}  left {duration(left)}"
        )

    def end_epoch(self, values: Mapping[str, Any], figures: Mapping[str, float | None]) -> None:
        """Record the means of the finished epoch and its COCO figures (empty: not validated)."""
        self._write((self.epoch,), {**values, **figures})
        if self.folder is not None:
            columns = dict.fromkeys(FIGURES, None) | dict(figures)
            append_csv(self.folder / "metrics.csv", {"epoch": self.epoch, **values, **columns})
        if figures:
            shown = "  ".join(f"{name} {_figure(figures[name])}" for name in FIGURES[:6])
            self.say(f"epoch {self.epoch}/{self.epochs}  {shown}")

    def finish(self, values: Mapping[str, Any]) -> None:
        """Record the figures of the whole run."""
        self._write((), values)
        self.status("finished", **values)

    def status(self, state: str, **values: Any) -> None:
        """Replace ``status.json``: what the run is doing, for programs that watch it."""
        if self.folder is None:
            return
        status = {"state": state, "time": time.time(), "epoch": self.epoch, "epochs": self.epochs}
        temporary = self.folder / "status.json.tmp"
        temporary.write_text(json.dumps(status | _plain(values), indent=1) + "\n")
        temporary.replace(self.folder / "status.json")

    def _write(self, step: Step | str, values: Mapping[str, Any]) -> None:
        if self.backend is not None:
            now = time.time()
            self.backend.log(now, now - self.start, step, _plain(values))
            self.backend.flush()


def append_csv(path: Path, values: Mapping[str, Any]) -> None:
    """Add a line to a CSV file, with a header where the file is new.

    The columns of an existing file stay; values it has no column for are left out of it.
    """
    columns: Sequence[str] = list(values)
    new = not path.exists()
    if not new:
        with path.open(newline="") as file:
            columns = next(csv.reader(file))
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerow(values)


def duration(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that JSON can hold: not-a-number and infinities become None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
