# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped and goes on ends with the bits of one that was not."""

import csv
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from effdet.training import Control, Orders
from tests.runs import tiny_coco
from tests.tiny import (
    TINY,
    computed,
    differing,
    final_state,
    logged_steps,
    tiny_model,
    train_here,
)

RUN = (*TINY, "--epochs", "2", "--lr", "0.02", "--batch-size", "2", "--log-every", "1")
# An epoch has so many steps; its validation, of both weights, so many batches and scorings.
STEPS, ROUNDS = 3, 4


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_model():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_two_to_validate(tiny_coco(tmp_path_factory.mktemp("data") / "a", images=6))


@pytest.fixture(scope="module")
def larger_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_two_to_validate(tiny_coco(tmp_path_factory.mktemp("data") / "b", images=12))


def with_two_to_validate(folder: Path) -> Path:
    """Leave two of the validation images, which cost most of the time."""
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["images"] = [image for image in content["images"] if image["id"] <= 2]
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] <= 2]
    file.write_text(json.dumps(content))
    return folder


class Stopping(Control):
    """Sends a signal to this process at one of the calls of ``poll``."""

    at, number, calls = 0, signal.SIGTERM, 0

    def poll(self) -> Orders:
        Stopping.calls += 1
        if Stopping.calls == Stopping.at:
            os.kill(os.getpid(), Stopping.number)
        return super().poll()


@pytest.fixture(autouse=True)
def _stopping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(train, "Control", Stopping)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    yield
    signal.signal(signal.SIGINT, before)


def start(folder: Path, *words: str | Path, stop_at: int = 0, number: int = 15) -> int:
    """A new run, stopped at a call of ``poll``; all generators begin alike."""
    Stopping.at, Stopping.calls, Stopping.number = stop_at, 0, signal.Signals(number)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    return train_here(*words, "--output", folder)


def go_on(folder: Path, *words: str, stop_at: int = 0) -> int:
    """The run of ``folder`` once more, in a process whose generators were used meanwhile."""
    Stopping.at, Stopping.calls, Stopping.number = stop_at, 0, signal.SIGTERM
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    return train_here("--resume", folder, *words)


def table(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.csv`` without measured columns."""
    with (folder / "metrics.csv").open() as file:
        return [computed(row) for row in csv.DictReader(file)]


def same_end(folder: Path, whole: Path) -> None:
    assert differing(final_state(folder), final_state(whole)) == []
    assert table(folder) == table(whole)
    assert logged_steps(folder) == logged_steps(whole)


SETTINGS = {
    "accumulate, sizes of any step": (
        "--accumulate", "2", "--multi-scale", "1", "1.6", "--eval-every", "2",
    ),
    "growing images, AdamW": (
        "--progressive", "2", "--image-size", "128", "--optimizer", "adamw", "--lr", "0.001",
        "--schedule", "nvidia", "--lr-noise", "0", "1", "--eval-every", "2",
    ),
    "no average": ("--ema-decay", "0", "--eval-every", "2"),
}  # fmt: skip


def test_stopped_at_any_step_or_in_validation_a_run_goes_on_exactly(
    data: Path, tmp_path: Path
) -> None:
    """Every call of poll of two epochs: each step, each batch of both validations, each scoring."""
    whole = tmp_path / "whole"
    assert start(whole, *RUN, "--data", data) == 0
    calls = Stopping.calls
    assert calls == 2 * (STEPS + ROUNDS)
    for call in range(1, calls + 1):
        folder = tmp_path / f"stopped-{call}"
        number = (signal.SIGTERM, signal.SIGINT)[call % 2]
        assert start(folder, *RUN, "--data", data, stop_at=call, number=number) == 128 + number
        assert go_on(folder) == 0
        # Stopped in a validation, that validation begins anew.
        again = (call - 1) % (STEPS + ROUNDS) + 1 - STEPS
        assert Stopping.calls == calls - call + max(again, 0)
        same_end(folder, whole)
        shutil.rmtree(folder)
    print(f"N={calls} calls, seed=0")


@pytest.mark.parametrize("words", SETTINGS.values(), ids=SETTINGS.keys())
def test_with_other_settings_too(words: tuple[str, ...], larger_data: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert start(whole, *RUN, *words, "--data", larger_data) == 0
    steps = len(logged_steps(whole))
    tried = (steps // 2 - 1, steps // 2, steps // 2 + 1)  # the last of an epoch, and beside it
    for call in tried:
        folder = tmp_path / f"stopped-{call}"
        assert start(folder, *RUN, *words, "--data", larger_data, stop_at=call) == 143
        assert go_on(folder) == 0
        same_end(folder, whole)
    print(f"N={len(tried)} of {steps} steps, seed=0")


def test_a_run_may_be_stopped_again_and_again(data: Path, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    assert start(whole, *RUN, "--data", data) == 0
    assert start(folder, *RUN, "--data", data, stop_at=1) == 143
    after = [1, 1, *range(1, ROUNDS + 1), ROUNDS + 1, 1, 1, *range(1, ROUNDS + 1)]
    assert [go_on(folder, stop_at=call) for call in after] == [143] * len(after)
    assert go_on(folder) == 0
    same_end(folder, whole)
    print(f"N={1 + len(after)} stops, seed=0")


def test_any_number_of_loader_workers_gives_the_same_weights(data: Path, tmp_path: Path) -> None:
    words = (*RUN, "--data", data, "--eval-every", "2")
    folders = []
    for workers in ("0", "1", "2"):
        folders.append(tmp_path / workers)
        assert start(folders[-1], *words, "--workers", workers) == 0
    stopped = tmp_path / "stopped"
    assert start(stopped, *words, "--workers", "2", stop_at=2) == 143
    assert go_on(stopped, "--workers", "1") == 0
    for folder in (*folders[1:], stopped):
        same_end(folder, folders[0])


def test_with_another_seed_the_weights_are_others(data: Path, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        assert start(tmp_path / seed, *RUN, "--data", data, "--seed", seed) == 0
    assert "model.backbone.stem.conv.weight" in differing(
        final_state(tmp_path / "0"), final_state(tmp_path / "1")
    )
