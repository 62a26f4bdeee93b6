# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a training is told in one line with its exit code, and spoils nothing."""

import copy
import dataclasses
import errno
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from effdet import distributed
from effdet.errors import UsageError, run
from effdet.weights import load_checkpoint, save_checkpoint
from tests.runs import tiny_coco
from tests.tiny import TINY, tiny_model, train_here

QUICK = (*TINY, "--epochs", "2", "--batch-size", "2", "--lr", "0.02", "--eval-from", "2")

Refusal = Callable[..., tuple[int, str]]
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_model():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "tiny", images=4)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs; copy it before it is changed."""
    folder = tmp_path_factory.mktemp("runs") / "two_epochs"
    assert train_here("--data", data, *QUICK, "--output", folder) == 0
    return folder


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Exit code and the one line on stderr of a ``train.py`` that must fail."""

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run(train.main, "train.py")
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return int(stop.value.code or 0), lines[0]

    return call


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch-size auto --device cpu", "--batch-size auto needs a GPU; give a number"),
        ("--multi-scale 1 1e9", "--multi-scale must be at most 256, where images have 16384"),
        ("--multi-scale 0.1 1e300", "--multi-scale must be at most 256"),
        ("--image-size 100000000", "--image-size must be at most 16384 pixels a side"),
        ("--progressive 3", "--progressive must be at most the 2 epochs, got 3"),
        ("--ema-decay 0 --eval-weights ema", "--eval-weights ema needs averaged weights"),
        ("--freeze-bn --sync-bn all", "give --freeze-bn or --sync-bn"),
        ("--cooldown-epochs 3", "--cooldown-epochs needs a --min-lr above 0"),
        ("--min-lr 1", "--min-lr must be at most the --lr of 0.02, got 1.0"),
        ("--schedule step --min-lr 0.001", "--min-lr does nothing with --schedule step"),
        ("--timeout 1e-9", "--timeout must be seconds in [1, 1e6], got 1e-09"),
        ("--timeout 1e18", "--timeout must be seconds in [1, 1e6]"),
        ("--box-loss-weight 1e300", "--box-loss-weight must be finite in float32, got 1e+300"),
        ("--amp --amp-dtype float16", "--amp-dtype float16 needs a GPU"),
        ("--timeout nan", "--timeout must be seconds in [1, 1e6]"),
        ("--jitter-max 1e300", "--jitter-max must be in (0, 100], got 1e+300"),
        ("--workers 100000", "--workers must be at most 1000, got 100000"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    refusal: Refusal, data: Path, tmp_path: Path, words: str, message: str
) -> None:
    output = tmp_path / "run"
    code, line = refusal("--data", data, *QUICK, *words.split(), "--output", output)
    assert code == 2
    assert message in line
    assert not output.exists()


def test_a_tracker_that_is_not_installed_is_named(
    refusal: Refusal, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    words = ("--data", data, *QUICK, "--output", tmp_path / "run", "--log-to", "wandb", "mlflow")
    code, line = refusal(*words)
    assert code == 2
    assert "--log-to wandb needs the package wandb" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--weights", "--backbone-weights"])
def test_weights_that_are_not_there_cost_no_folder(
    refusal: Refusal, data: Path, tmp_path: Path, flag: str
) -> None:
    output = tmp_path / "run"
    code, line = refusal("--data", data, *QUICK, flag, tmp_path / "no.pt", "--output", output)
    assert code == 4
    assert "no.pt: no such weights file" in line
    assert not output.exists()


def test_data_that_are_not_there_cost_no_folder(refusal: Refusal, tmp_path: Path) -> None:
    code, line = refusal("--data", tmp_path / "no", *QUICK, "--output", tmp_path / "run")
    assert code == 3
    assert "no such data folder" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "MASTER_PORT must be a whole number, found ''; start several processes with torchrun"),
        ({"MASTER_PORT": "1"}, "RANK and WORLD_SIZE are set but not MASTER_ADDR"),
        ({"MASTER_PORT": "1", "RANK": "zero"}, "RANK must be a whole number, found 'zero'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number, found '0'"),
        (
            {"MASTER_PORT": "1", "MASTER_ADDR": "localhost", "RANK": "5"},
            "RANK must be below WORLD_SIZE, found 5 and 2",
        ),
    ],
)
def test_an_environment_of_half_a_launcher_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2"} | variables).items():
        monkeypatch.setenv(name, value)
    group = distributed.process_group(torch.device("cpu"))
    with pytest.raises(UsageError, match=message), group:
        pass


class Full(io.StringIO):
    """A disk without space."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("stderr", [None, Full()])
def test_the_exit_code_is_right_where_nobody_reads_the_error(
    monkeypatch: pytest.MonkeyPatch, stderr: Any
) -> None:
    def fail() -> None:
        raise UsageError("no")

    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(SystemExit) as stop:
        run(fail, "train.py")
    assert stop.value.code == 2


@pytest.mark.parametrize("value", ["Auto", "2.0", "true", "[2]"])
def test_a_number_or_word_of_a_file_is_checked(
    refusal: Refusal, tmp_path: Path, value: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"batch_size: {value}\n")
    code, line = refusal("--config", file)
    assert code == 2
    assert f"{file}:1:13: batch_size must be a whole number or auto, found" in line


def test_a_run_goes_on_in_its_own_folder(refusal: Refusal, finished: Path, tmp_path: Path) -> None:
    before = contents(finished)
    code, line = refusal("--resume", finished, "--output", tmp_path / "elsewhere", *TINY)
    assert code == 2
    assert f"--resume {finished} goes on in {finished}; leave out --output" in line
    assert contents(finished) == before
    assert not (tmp_path / "elsewhere").exists()


def test_fewer_epochs_than_are_done_are_refused(refusal: Refusal, finished: Path) -> None:
    code, line = refusal("--resume", finished, *TINY, "--epochs", "1")
    assert code == 2
    assert "the run has done 2 epochs, but --epochs and --cooldown-epochs are 1" in line


def test_a_lock_that_is_no_file_is_named(refusal: Refusal, finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path)
    (folder / ".lock").unlink()
    os.mkfifo(folder / ".lock")
    code, line = refusal("--resume", folder, *TINY)
    assert code == 1
    assert f"cannot write {folder / '.lock'}" in line


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "previous.pt"])
def test_a_folder_in_place_of_a_checkpoint_is_told_at_once(
    refusal: Refusal, data: Path, finished: Path, tmp_path: Path, name: str
) -> None:
    folder = copy_of(finished, tmp_path)
    shutil.copy(folder / "last.pt", folder / "epoch-0001.pt")
    (folder / name).unlink()
    (folder / name).mkdir()
    words = ("--data", data, *QUICK, "--output", folder, "--resume", "auto")
    code, line = refusal(*words)
    assert code == 2
    assert f"{folder / name} is not a file" in line


def copy_of(folder: Path, parent: Path) -> Path:
    return Path(shutil.copytree(folder, parent / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.update(images=-1), id="images -1"),
        pytest.param(lambda t: t.update(epoch=-5), id="epoch -5"),
        pytest.param(lambda t: t.update(epoch=None), id="epoch None"),
        pytest.param(lambda t: t.update(step=-1), id="step -1"),
        pytest.param(
            lambda t: t["ranks"][0]["random"]["numpy"].update(pos=10**6), id="random position"
        ),
        pytest.param(lambda t: t.update(step=10**400), id="step beyond floats"),
        pytest.param(lambda t: t.update(steps_per_epoch=0), id="steps_per_epoch 0"),
        pytest.param(lambda t: t.update(images=float("nan")), id="images nan"),
    ],
)
def test_a_damaged_training_state_is_named(
    refusal: Refusal, finished: Path, tmp_path: Path, change: Change
) -> None:
    folder = copy_of(finished, tmp_path)
    (folder / "previous.pt").unlink(missing_ok=True)
    checkpoint = load_checkpoint(folder / "last.pt")
    training = copy.deepcopy(dict(checkpoint.training))
    change(training)
    save_checkpoint(dataclasses.replace(checkpoint, training=training), folder / "last.pt")
    before = {name: text for name, text in contents(folder).items() if name != "status.json"}
    code, line = refusal("--resume", folder, *TINY, "--epochs", "3")
    assert code == 4
    assert f"{folder / 'last.pt'}: damaged training state" in line
    after = {name: text for name, text in contents(folder).items() if name != "status.json"}
    assert after == before
