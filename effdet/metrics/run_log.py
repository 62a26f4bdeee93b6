# SPDX-License-Identifier: Apache-2.0
"""The record of a training run, in all its forms."""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from effdet.errors import SignalError, one_line
from effdet.files import replace_text
from effdet.metrics.console import Lines, Position, build_console
from effdet.metrics.dllogger import (
    METADATA,
    Logger,
    Step,
    build_json_logger,
    build_stdout_logger,
)
from effdet.metrics.environment import append_environment, environment, peak_memory
from effdet.metrics.sinks import RunInfo, Sink, open_sink, require_installed
from effdet.metrics.table import table_row, write_table
from effdet.metrics.values import plain_values
from effdet.settings import Console as ConsoleKind
from effdet.settings import Sink as SinkName

HEARTBEAT = 10.0
"""Seconds between renewals of ``status.json`` while training."""


class RunLog:
    """The record of a training run: console, files of the run folder, trackers.

    ``log.jsonl`` holds dllogger's lines, ``metrics.csv`` a line an epoch, ``status.json`` what the
    run is doing, ``environment.json`` what it runs on. A context manager: an error that leaves it
    is told in ``status.json``. An I/O error of a log never ends a run: it is told once on standard
    error and counted.

    Args:
        folder: the run folder; None (on all processes but the main one) records nothing.
        epochs: of the whole run.
        steps_per_epoch: of each; the attribute may be set until the first begins.
        console: a bar where there is a terminal, readable lines, or dllogger's lines.
        log_to: trackers that get the values as well.
        name: of the run at the trackers (default: the folder's).

    Attributes:
        history: a row of plain values for each epoch that has ended, for the checkpoint.
        lost: records that could not be written.
        bad_images: images that could not be used, for ``status.json``.

    Raises:
        UsageError: where a tracker is not installed, on every process.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        epochs: int,
        steps_per_epoch: int,
        console: ConsoleKind = "auto",
        log_to: Sequence[SinkName] = (),
        name: str = "",
    ) -> None:
        require_installed(log_to)
        self.folder = folder
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.name = name or (folder.resolve().name if folder else "")
        self.history: list[dict[str, Any]] = []
        self.lost = self.bad_images = 0
        self.epoch = self.steps = 0
        self.state = "starting"
        self.console: Lines | None = None if folder is None else build_console(console)
        self._told: set[str] = set()
        self._device: torch.device | None = None
        self._parameters: dict[str, Any] = {}
        self._steps_before = 0
        self._start: float | None = None
        self._epoch_start = self._heartbeat = time.monotonic()
        self._wanted = list(log_to)
        self._sinks: dict[SinkName, Sink] = {}
        self._loggers: dict[str, Callable[[], Logger]] = {}
        self._open_loggers: dict[str, Logger] = {}
        if folder is not None:
            self._loggers["log.jsonl"] = lambda: build_json_logger(folder / "log.jsonl")
        if folder is not None and console == "dllogger":
            self._loggers["standard output"] = build_stdout_logger

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave word in ``status.json`` of a run that ended before its time."""
        if error is not None:
            state, code = _end(error)
            text = f"{type(error).__name__}: {one_line(error)}"
            self.status(state, error=text, exit_code=code)
        for name, sink in self._sinks.items():
            self._try(name, sink.close, self.state, errors=Exception)
        for file, logger in self._open_loggers.items():
            self._try(file, logger.close)
        if self.console is not None:
            self._try("standard output", self.console.close)

    def say(self, text: str) -> None:
        """Print ``text`` for the person who watches."""
        if self.console is not None:
            self._try("standard output", self.console.say, text)

    def warn(self, text: str) -> None:
        """Print ``text`` on standard error; ``log.jsonl`` holds it with the step ``WARNING``."""
        if self.console is not None:
            self._try("standard error", self.console.warn, f"warning: {text}")
            self._log("WARNING", {"message": text})

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Record the settings of the run."""
        self._parameters = plain_values(values)
        self._log("PARAMETER", self._parameters)

    def environment(self, device: torch.device, world_size: int) -> None:
        """Record what the run runs on, and measure the memory of ``device`` from now on."""
        self._device = device
        if self.folder is not None:
            path = self.folder / "environment.json"
            entry = environment(device, world_size)
            self._try(path.name, append_environment, path, entry)

    def resume_at(self, step: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Go on after ``step`` steps of the run; the table is written anew from ``history``."""
        self._steps_before = step
        self.history = [dict(row) for row in history]
        self._write_table()

    def begin_epoch(self, epoch: int) -> None:
        """What follows belongs to ``epoch``, counted from 1."""
        self.epoch, self.steps = epoch, 0
        self._epoch_start = time.monotonic()
        if self._start is None:
            self._start = self._epoch_start
            self._open_sinks()
        if self.console is not None:
            begin = self.console.begin_epoch
            self._try("standard output", begin, epoch, self.epochs, self.steps_per_epoch)
        self.status("training")

    def tick(self, step: int) -> None:
        """``step`` steps are done in this epoch; nothing is read from the device."""
        self.steps = step
        if self.console is not None:
            self._try("standard output", self.console.tick, step)

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Record mean ``values`` of the last steps; ``step`` are done in this epoch."""
        self.steps = step
        if self.console is None:
            return
        found = plain_values(values) | {"memory": peak_memory(self._device)}
        self._log((self.epoch, step), found)
        self._track("train", found)
        position = Position(
            epoch=self.epoch,
            epochs=self.epochs,
            step=step,
            steps=self.steps_per_epoch,
            left=self._seconds_left(),
        )
        self._try("standard output", self.console.show, position, found)
        if time.monotonic() - self._heartbeat > HEARTBEAT:
            self.status(self.state)

    def end_epoch(
        self, values: Mapping[str, Any], figures: Mapping[str, float | str | None]
    ) -> None:
        """Record the means of the finished epoch and its COCO figures (empty: not validated)."""
        seconds = round(time.monotonic() - self._epoch_start, 3)
        costs = {"memory": peak_memory(self._device), "seconds": seconds}
        found, measured = plain_values({**values, **costs}), plain_values(figures)
        # Not those counted here: a run that goes on in a validation has none of its own.
        row = {"steps": self.steps_per_epoch, **found}
        self.history.append(table_row(self.epoch, row, measured))
        if self.console is None:
            return
        self._log((self.epoch,), {**found, **measured})
        self._write_table()
        self._track("epoch", found)
        self._track("val", measured)
        self._try("standard output", self.console.close)
        end = self.console.end_epoch
        self._try("standard output", end, self.epoch, self.epochs, seconds, found, measured)

    def give_up(self, error: str, exit_code: int) -> None:
        """Leave word of an error that ends the process from another thread."""
        self.status("failed", error=error, exit_code=exit_code)

    def finish(self, values: Mapping[str, Any]) -> None:
        """Record the figures of the whole run."""
        found = plain_values(values)
        self._log((), found)
        self._track("run", found)
        self.status("finished", **found)

    def status(self, state: str, **values: Any) -> None:
        """Replace ``status.json``: what the run is doing, for programs that watch it.

        Args:
            state: training, validating, finished, failed, preempted (SIGTERM) or interrupted.
            values: what else to tell.
        """
        self.state = state
        if self.folder is None or self.console is None:
            return
        self._heartbeat = time.monotonic()
        position = {"epoch": self.epoch, "epochs": self.epochs}
        position |= {"step": self.steps, "steps": self.steps_per_epoch}
        lost = {"lost_records": self.lost} if self.lost else {}
        bad = {"bad_images": self.bad_images} if self.bad_images else {}
        known = {"state": state, "time": time.time(), **position, **lost, **bad}
        status = known | plain_values(values)
        path = self.folder / "status.json"
        self._try(path.name, replace_text, path, json.dumps(status, indent=1) + "\n")
        if state != "training":
            self._try("standard output", self.console.state, state)

    def _seconds_left(self) -> float:
        """At the mean pace of this start, validations included."""
        done = (self.epoch - 1) * self.steps_per_epoch + self.steps
        start = time.monotonic() if self._start is None else self._start
        per_step = (time.monotonic() - start) / max(done - self._steps_before, 1)
        return (self.epochs * self.steps_per_epoch - done) * per_step

    def _write_table(self) -> None:
        if self.folder is not None:
            path = self.folder / "metrics.csv"
            self._try(path.name, write_table, path, self.history)

    def _log(self, step: Step, values: Mapping[str, Any]) -> None:
        """Give plain ``values`` to dllogger's files; one that could not be opened is tried anew."""
        for name, build in self._loggers.items():
            if name not in self._open_loggers:
                self._try(name, self._open_logger, name, build)
            if name in self._open_loggers:
                self._try(name, self._open_loggers[name].log, step, values)

    def _open_logger(self, name: str, build: Callable[[], Logger]) -> None:
        logger = self._open_loggers[name] = build()
        for metric, metadata in METADATA.items():
            logger.metadata(metric, metadata)

    def _open_sinks(self) -> None:
        if self.folder is None:
            return
        run = RunInfo(
            folder=self.folder,
            name=self.name,
            parameters=self._parameters,
            first_step=self._steps_before,
        )
        for name in self._wanted:
            self._try(name, self._open_sink, name, run, errors=Exception)

    def _open_sink(self, name: SinkName, run: RunInfo) -> None:
        self._sinks[name] = open_sink(name, run)

    def _track(self, group: str, values: Mapping[str, Any]) -> None:
        """Give the numbers of plain ``values`` to the trackers, as ``group/name``."""
        step = max((self.epoch - 1) * self.steps_per_epoch + self.steps, 0)
        numbers = {
            f"{group}/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        for name, sink in self._sinks.items():
            if numbers:
                self._try(name, sink.log, step, numbers, errors=Exception)

    def _try(
        self,
        what: str,
        write: Callable[..., object],
        *arguments: Any,
        errors: type[Exception] = OSError,
    ) -> None:
        """Call ``write``; that it fails is counted and, once for each ``what``, told."""
        try:
            write(*arguments)
        except errors as error:
            self.lost += 1
            if what not in self._told:
                self._told.add(what)
                reason = one_line(error) or type(error).__name__
                text = f"warning: {what} cannot be written ({reason}); the training goes on"
                with contextlib.suppress(OSError):
                    print(text, file=sys.stderr, flush=True)


def _end(error: BaseException) -> tuple[str, int]:
    """State and exit code of a run that ended by ``error``."""
    if isinstance(error, SignalError):
        ended = "interrupted" if error.signal == signal.SIGINT else "preempted"
        return ended, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, SystemExit):
        return "failed", error.code if isinstance(error.code, int) else int(bool(error.code))
    return "failed", getattr(error, "exit_code", 1)
