# SPDX-License-Identifier: Apache-2.0
"""A run folder, read for looking at it: what is missing or damaged is noted and left out."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from effdet.errors import EffdetError, UsageError, one_line
from effdet.files.regular import open_regular
from effdet.files.yaml_file import read_yaml
from effdet.keepsakes import BEST_VALIDATION, FOLDER, LABELS
from effdet.run_files import CONFIG, MAX_BYTES

Row = dict[str, float | str | None]
Value = TypeVar("Value")

DAMAGED = (
    EffdetError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    RecursionError, csv.Error,
)  # fmt: skip
"""What reading a damaged file raises; its part of the page is left out and noted."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run has written.

    Attributes:
        folder: the run folder.
        name: of the run: the folder's.
        settings: of ``config.yaml``.
        starts: an entry of ``environment.json`` for each start of the program.
        status: of ``status.json``.
        epochs: rows of ``metrics.csv``: numbers, texts, None for an empty cell.
        steps: (epoch, step, values) of ``log.jsonl``, in order, each step once.
        labels: split -> what its boxes are like.
        best: what the kept detections are; empty where there are none.
        notes: what is missing, for the reader of the report.
    """

    folder: Path
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    epochs: list[Row] = field(default_factory=list)
    steps: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def best_epoch(self) -> Row:
        """The row of the epoch with the highest AP; empty where none was validated."""
        validated = [row for row in self.epochs if number(row.get("AP")) is not None]
        return max(validated, key=lambda row: number(row["AP"]) or 0.0, default={})

    @property
    def best_ap(self) -> float:
        """The highest AP, -1 where none was measured."""
        found = number(self.best_epoch.get("AP"))
        return -1.0 if found is None else found

    @property
    def seconds(self) -> float:
        """Time of all epochs."""
        return sum(number(row.get("seconds")) or 0.0 for row in self.epochs)

    def setting(self, name: str) -> str:
        """A setting as text."""
        value = self.settings.get(name)
        return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def read_run(folder: str | Path) -> RunRecord:
    """What there is of a run.

    Raises:
        UsageError: for a folder without any file of a run.
    """
    folder = Path(folder)
    notes: list[str] = []
    if not (folder / CONFIG).exists() and not (folder / "metrics.csv").exists():
        raise UsageError(
            f"{folder}: no run folder (no {CONFIG} and no metrics.csv); name a folder that "
            "train.py made with --output"
        )

    def read(name: str, parse: Callable[[Path], Value], empty: Value, optional: bool) -> Value:
        try:
            return parse(folder / name)
        except DAMAGED as error:
            if not optional or (folder / name).exists():
                notes.append(f"{name} is left out: {one_line(error)}")
            return empty

    return RunRecord(
        folder=folder,
        name=folder.resolve().name,
        settings=read(CONFIG, _settings, {}, False),
        starts=read("environment.json", _list, [], False),
        status=read("status.json", _object, {}, False),
        epochs=read("metrics.csv", _table, [], True),
        steps=read("log.jsonl", _steps, [], False),
        labels=read(f"{FOLDER}/{LABELS}", _objects, {}, True),
        best=read(f"{FOLDER}/{BEST_VALIDATION}", _object, {}, True),
        notes=notes,
    )


def number(value: Any) -> float | None:
    """``value`` where it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


def share(value: Any) -> str | None:
    """A figure from 0 to 1 with three digits, as COCO's figures are printed; None is a dash."""
    found = number(value)
    return None if found is None else f"{found:.3f}"


def _text(path: Path) -> str:
    with open_regular(path, "file", EffdetError, MAX_BYTES) as file:
        return file.read(MAX_BYTES).decode("utf-8", "replace")


def _settings(path: Path) -> dict[str, Any]:
    return {name: entry.value for name, entry in read_yaml(path).items()}


def _object(path: Path) -> dict[str, Any]:
    value = json.loads(_text(path))
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _objects(path: Path) -> dict[str, Any]:
    values = _object(path)
    if not all(isinstance(value, dict) for value in values.values()):
        raise ValueError("no JSON object of objects")
    return values


def _list(path: Path) -> list[dict[str, Any]]:
    value = json.loads(_text(path))
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError("no list of JSON objects")
    return value


def _table(path: Path) -> list[Row]:
    rows = csv.DictReader(_text(path).splitlines())
    return [{k: _cell(v) for k, v in row.items() if isinstance(k, str)} for row in rows]


def _cell(text: str | None) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _steps(path: Path) -> list[tuple[int, int, dict[str, Any]]]:
    """A step that was done again after a crash counts as it was done last; torn lines do not."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for line in _text(path).splitlines():
        try:
            entry = json.loads(line.removeprefix("DLLL "))
            step, values = entry.get("step"), entry.get("data")
        except DAMAGED:
            continue
        whole = isinstance(step, list) and all(isinstance(part, int) for part in step)
        if isinstance(values, dict) and whole and len(step) == 2:
            found[step[0], step[1]] = values
    return [(epoch, step, found[epoch, step]) for epoch, step in sorted(found)]
