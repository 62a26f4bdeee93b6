# SPDX-License-Identifier: Apache-2.0
"""A model for tests of whole runs, and ``train.py`` inside this process."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import train
from effdet.config import BACKBONES, MODELS
from effdet.errors import EffdetError
from effdet.weights import load_checkpoint

TINY = ("--model", "tiny", "--workers", "0", "--device", "cpu", "--warmup-epochs", "0.5")
"""Words of a run of the tiny model."""

MEASURED = {"seconds", "memory", "images_per_second", "data_share"}
"""Columns that say how a run went and not what it computed."""

_BACKBONE = dataclasses.replace(
    BACKBONES["efficientnet_b0"], name="efficientnet_tiny", width=0.1, depth=0.25
)


@contextmanager
def tiny_model() -> Iterator[None]:
    """``--model tiny``: all parts of an EfficientDet, stochastic depth too, in 40,000 numbers.

    ``--model still`` is the same without stochastic depth.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, _BACKBONE.name, _BACKBONE)
        for name, survival_prob in (("tiny", 0.8), ("still", 1.0)):
            model = dataclasses.replace(
                MODELS["efficientdet_d0"],
                name=name,
                backbone=_BACKBONE.name,
                image_size=(64, 64),
                width=8,
                bifpn_cells=1,
                head_repeats=1,
                survival_prob=survival_prob,
            )
            patch.setitem(MODELS, name, model)
        yield


def train_here(*words: str | Path) -> int:
    """``train.py WORDS`` in this process; the exit code that it would leave with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *map(str, words)])
        try:
            train.main()
        except EffdetError as error:
            print(f"train.py: error: {error}", file=sys.stderr)
            return error.exit_code
    return 0


def final_state(folder: Path) -> dict[str, Any]:
    """All that ``last.pt`` holds, entry by entry, without what was measured with a clock.

    Where the run lies and how it was started is left out as well.
    """
    checkpoint = load_checkpoint(folder / "last.pt")
    training = dict(checkpoint.training)
    training["config"] = {
        name: value for name, value in training["config"].items() if name not in _OF_THE_START
    }
    training["history"] = [computed(row) for row in training["history"]]
    training["ranks"] = [
        {"random": rank["random"], "meter": {k: rank["meter"][k] for k in ("names", "sums")}}
        for rank in training["ranks"]
    ]
    whole = {
        "model": checkpoint.model,
        "ema": checkpoint.ema,
        "chosen": checkpoint.chosen,
        "metrics": checkpoint.metrics,
        "training": training,
    }
    return dict(_entries(whole))


_OF_THE_START = {"output", "resume", "workers"}


def computed(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` without measured columns."""
    return {name: value for name, value in row.items() if name not in MEASURED}


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of the entries of :func:`final_state` that are not equal to the last bit."""
    names = [name for name in first if name not in second]
    names += [name for name in second if name not in first]
    return names + [n for n in first if n in second and not _equal(first[n], second[n])]


def logged_steps(folder: Path) -> list[tuple[Any, dict[str, Any]]]:
    """Epoch and step, and values, of every line about steps in ``log.jsonl``."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line.removeprefix("DLLL ")) for line in lines]
    return [
        (entry["step"], computed(entry["data"]))
        for entry in entries
        if entry["type"] == "LOG" and isinstance(entry["step"], list) and len(entry["step"]) == 2
    ]


def _entries(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _entries(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        return same and first.numpy().tobytes() == second.numpy().tobytes()
    return type(first) is type(second) and (first == second or first != first)
