# SPDX-License-Identifier: Apache-2.0
"""train.py with a tiny model, in this process."""

import csv
import dataclasses
import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from effdet import evaluation
from effdet.files import WriteError
from effdet.losses import DetectionLoss
from effdet.precision import set_tf32
from effdet.training import checkpoint as checkpoint_module
from effdet.training import load_batches
from effdet.weights import load_checkpoint
from tests.runs import tiny_coco
from tests.tiny import TINY, tiny_model, train_here

Words = tuple[str | Path, ...]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture
def tiny(data: Path) -> Iterator[Words]:
    """Words of a short run: one epoch of two steps."""
    with tiny_model():
        yield (*TINY, "--data", data, "--batch-size", "2", "--epochs", "1", "--lr", "0.02",
               "--max-candidates", "100")  # fmt: skip
    torch.autograd.set_detect_anomaly(False)
    set_tf32(True)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def scripted_figures(monkeypatch: pytest.MonkeyPatch, *aps: tuple[float, float]) -> None:
    """AP of averaged and raw weights of one validation after the other."""
    left = [ap for pair in aps for ap in pair]
    real = evaluation.evaluate

    def evaluate(*arguments: Any, **options: Any) -> Any:
        metrics = real(*arguments, **options)
        return dataclasses.replace(metrics, figures={**metrics.figures, "AP": left.pop(0)})

    monkeypatch.setattr("effdet.training.validation.evaluate", evaluate)


def test_the_better_weights_are_the_best_and_are_named(
    tiny: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_figures(monkeypatch, (0.1, 0.2), (0.15, 0.12), (0.3, 0.1))
    folder = tmp_path / "run"
    assert train_here(*tiny, "--epochs", "3", "--output", folder) == 0
    rows = table(folder)
    assert [row["AP"] for row in rows] == ["0.2", "0.15", "0.3"]
    assert [row["weights"] for row in rows] == ["raw", "ema", "ema"]
    assert (rows[0]["AP_ema"], rows[0]["AP_raw"]) == ("0.1", "0.2")
    best = load_checkpoint(folder / "best.pt")
    assert (best.chosen, best.metrics["epoch"], best.metrics["AP"]) == ("ema", 3, 0.3)
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["best_AP"]) == ("finished", 0.3)


@pytest.mark.parametrize(
    ("aps", "said"),
    [
        # The first epoch is of the warm-up; the bound is 0.001.
        ((0.0, 0.0009, 0.0, 0.0, 0.0), [2, 4, 5]),
        ((0.0, 0.0011, 0.0011, 0.0, 0.0011), [4]),
        ((0.0, 0.5, 0.5, 0.5, 0.0), [5]),
    ],
)
def test_an_ap_of_practically_0_is_looked_into_now_and_then(
    aps: tuple[float, ...],
    said: list[int],
    tiny: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted_figures(monkeypatch, *((ap, ap) for ap in aps))
    words = ("--epochs", "5", "--warmup-epochs", "1", "--optimizer", "adamw", "--lr", "0.3")
    assert train_here(*tiny, *words, "--output", tmp_path / "run") == 0
    out = capsys.readouterr().out
    causes, epoch = [], 0
    for line in out.splitlines():
        causes += [epoch + 1] * line.startswith("likely cause: ")
        epoch += line.startswith("epoch ") and "loss" in line and "AP " in line
    assert causes == said
    assert "it is 0.3; with adamw, 0.008 is usual; both for a global batch of 64" in out


def test_raw_weights_may_be_the_best(
    tiny: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_figures(monkeypatch, (0.1, 0.2), (0.15, 0.12))
    assert train_here(*tiny, "--epochs", "2", "--output", tmp_path / "run") == 0
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    assert (best.chosen, best.metrics["epoch"]) == ("raw", 1)
    assert best.best_weights() is best.model


def test_a_run_without_a_gain_ends_early(
    tiny: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted_figures(monkeypatch, (0.1, 0.2), (0.1, 0.1), (0.2, 0.1))
    folder = tmp_path / "run"
    assert train_here(*tiny, "--epochs", "9", "--patience", "2", "--output", folder) == 0
    assert [row["epoch"] for row in table(folder)] == ["1", "2", "3"]
    assert "no higher AP in 2 validations" in capsys.readouterr().out
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    # It has ended; going on trains nothing more, with more patience it does.
    assert train_here("--resume", folder) == 0
    assert len(table(folder)) == 3
    scripted_figures(monkeypatch, (0.3, 0.1), (0.1, 0.1))
    assert train_here("--resume", folder, "--patience", "0", "--epochs", "5") == 0
    assert [row["AP"] for row in table(folder)] == ["0.2", "0.1", "0.2", "0.3", "0.1"]


@pytest.mark.parametrize(
    ("words", "validated", "told"),
    [
        (("--eval-from", "3"), [3, 4, 5], "run  5 epochs  batch"),
        (
            ("--eval-every", "2"),
            [2, 4, 5],
            "run  5 epochs, validated every 2 and at the end  batch",
        ),
        (
            ("--eval-every", "4", "--eval-from", "5"),
            [5],
            "epochs, validated every 4 and at the end",
        ),
    ],
)
def test_validation_comes_when_it_is_asked_for_and_at_the_end(
    words: Words,
    validated: list[int],
    told: str,
    tiny: Words,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_here(*tiny, "--epochs", "5", *words, "--output", tmp_path / "run") == 0
    assert told in capsys.readouterr().out
    rows = table(tmp_path / "run")
    assert len(rows) == 5
    assert [int(row["epoch"]) for row in rows if row["AP"]] == validated


@pytest.mark.parametrize("which", ["ema", "raw"])
def test_only_the_wanted_weights_are_validated(which: str, tiny: Words, tmp_path: Path) -> None:
    assert train_here(*tiny, "--eval-weights", which, "--output", tmp_path / "run") == 0
    (row,) = table(tmp_path / "run")
    assert row["weights"] == which
    assert row[f"AP_{which}"] == row["AP"] != ""
    assert row["AP_raw" if which == "ema" else "AP_ema"] == ""


def test_every_few_epochs_a_checkpoint_is_kept(tiny: Words, tmp_path: Path) -> None:
    words = ("--epochs", "5", "--save-every", "1", "--keep", "2", "--eval-every", "5")
    folder = tmp_path / "run"
    assert train_here(*tiny, *words, "--output", folder) == 0
    names = sorted(path.name for path in folder.glob("epoch-*.pt"))
    assert names == ["epoch-0004.pt", "epoch-0005.pt"]
    # To an earlier one a run can go back.
    assert train_here("--resume", folder / "epoch-0004.pt") == 0
    assert [row["epoch"] for row in table(folder)] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("minutes", "saves"), [("0.0000001", 6), ("0", 1), ("15", 1)])
def test_checkpoints_are_written_every_few_minutes(
    minutes: str, saves: int, tiny: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two steps, two batches of the validation, its scoring, and at the epoch's end."""
    written: list[Path] = []
    real = checkpoint_module.save_last

    def save_last(folder: Path, checkpoint: Any) -> None:
        written.append(folder)
        real(folder, checkpoint)

    monkeypatch.setattr(checkpoint_module, "save_last", save_last)
    words = ("--save-minutes", minutes, "--eval-weights", "raw", "--output", tmp_path / "run")
    assert train_here(*tiny, *words) == 0
    assert len(written) == saves


def test_a_disk_that_stays_full_ends_the_run(
    tiny: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def save_last(*_: Any) -> None:
        raise WriteError(errno.ENOSPC, "cannot write last.pt: No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_last", save_last)
    words = ("--epochs", "3", "--save-minutes", "0.0000001", "--output", tmp_path / "run")
    assert train_here(*tiny, *words) == 1
    errors = capsys.readouterr().err
    assert "the run goes on, 2 more tries" in errors
    assert "3 checkpoints in a row could not be written" in errors


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_is_set_as_asked(wanted: bool, tiny: Words, tmp_path: Path) -> None:
    word = "--tf32" if wanted else "--no-tf32"
    set_tf32(not wanted)
    assert train_here(*tiny, word, "--output", tmp_path / "run") == 0
    assert torch.backends.cuda.matmul.allow_tf32 == wanted
    assert torch.backends.cudnn.allow_tf32 == wanted


def with_nan_in_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the loss is not a number, its value is."""
    real = DetectionLoss.__call__

    def call(self: DetectionLoss, *arguments: Any) -> dict[str, torch.Tensor]:
        losses = real(self, *arguments)
        zero = losses["box_loss"] * 0
        return {**losses, "loss": losses["loss"] + torch.where(zero == 0, zero, zero.sqrt())}

    monkeypatch.setattr(DetectionLoss, "__call__", call)


def test_an_anomaly_is_named_by_its_operation(
    tiny: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_nan_in_backward(monkeypatch)
    with pytest.warns(UserWarning, match="Error detected in SqrtBackward"):
        assert train_here(*tiny, "--detect-anomaly", "--output", tmp_path / "run") == 6
    errors = capsys.readouterr().err
    assert "Function 'SqrtBackward0' returned nan values" in errors
    assert "step 1" in errors
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 6


def test_a_run_without_finite_gradients_ends_and_keeps_batch_and_weights(
    tiny: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_nan_in_backward(monkeypatch)
    folder = tmp_path / "run"
    words = ("--epochs", "9", "--max-nonfinite", "3", "--eval-from", "9", "--output", folder)
    assert train_here(*tiny, *words) == 6
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no finite gradients in 3 steps, up to step 3" in line
    assert ".png" in line
    (batch,) = load_batches(folder / "diverged-rank0.pt")
    assert len(batch) == 2
    last = load_checkpoint(folder / "last.pt")
    assert all(value.isfinite().all() for value in last.model.values())
    assert (last.training["step"], last.training["skipped"]) == (3, [3, 3])
    assert not (folder / "best.pt").exists()


def test_the_console_may_be_dlloggers(
    tiny: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--console", "dllogger", "--log-every", "1", "--output", tmp_path / "run")
    assert train_here(*tiny, *words) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("DLL ")]
    assert any("PARAMETER" in line and "batch_size : 2" in line for line in lines)
    for step in ("(1, 1)", "(1, 2)"):
        assert any(f" - {step} loss : " in line for line in lines)


def test_fine_tuning_from_a_run_takes_its_better_weights(
    tiny: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        scripted_figures(patch, (0.1, 0.2))
        assert train_here(*tiny, "--output", tmp_path / "first") == 0
    again = (*tiny, "--weights", tmp_path / "first" / "best.pt", "--lr", "1e-30")
    again = (*again, "--warmup-lr", "0", "--freeze-bn", "--output", tmp_path / "second")
    assert train_here(*again) == 0
    first, second = (load_checkpoint(tmp_path / n / "last.pt") for n in ("first", "second"))
    name = "class_head.predict.pointwise.weight"
    name = name if name in first.model else next(n for n in first.model if n.endswith("weight"))
    assert torch.allclose(second.model[name], first.model[name])
    assert first.ema is not None
    assert not torch.allclose(first.ema[name], first.model[name])
