# SPDX-License-Identifier: Apache-2.0
"""Each exit code of the README's table, by a program that ends with it."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train
import validate
from effdet import cli, errors
from effdet.losses import DetectionLoss
from effdet.metrics import RunLog
from tests.runs import tiny_coco
from tests.tiny import TINY, tiny_model

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    7: (
        "tests/training/test_peers.py",
        "test_the_guilty_process_is_named_once_and_the_job_ends_in_time",
    )
}
"""Codes that need a job of several processes."""
MAINS: dict[str, Callable[[], None]] = {
    "train.py": train.main,
    "validate.py": validate.main,
    "effdet": cli.main,
}
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tiny_model():
        yield tiny_coco(tmp_path_factory.mktemp("data") / "tiny", images=4)


def code_of(*words: str | Path) -> int:
    """The exit code of a program that is called in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in words])
        try:
            errors.run(MAINS[str(words[0])], str(words[0]))
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def trained(data: Path, folder: Path, *words: str) -> int:
    epochs = ("--epochs", "1", "--batch-size", "2", "--seed", "0")
    return code_of("train.py", *TINY, "--data", data, *epochs, *words, "--output", folder / "run")


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "status.json").read_text())
    return found


def documented() -> set[int]:
    """The codes of the README's table."""
    text = (ROOT / "README.md").read_text().split("## Exit codes")[1].split("\n#")[0]
    rows = re.findall(r"^\| ([\d, ]+) \|", text, flags=re.MULTILINE)
    return {int(code) for row in rows for code in row.split(",")}


def test_the_table_has_the_codes_of_all_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = {
        kind.exit_code
        for kind in kinds
        if issubclass(kind, errors.EffdetError) and kind is not errors.SignalError
    }
    ended = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    assert documented() == ours | ended | {0, 128 + signal.SIGPIPE}


def test_codes_of_several_processes_are_tested() -> None:
    for file, name in ELSEWHERE.values():
        assert f"def {name}(" in (ROOT / file).read_text()


def test_0_done(data: Path, tmp_path: Path) -> None:
    assert trained(data, tmp_path) == 0
    assert (status(tmp_path)["state"], status(tmp_path)["epoch"]) == ("finished", 1)


def test_1_output_that_cannot_be_written(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"))
    assert code_of("effdet", "info", "--build") == 1
    assert capsys.readouterr().err == "effdet: error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("words", [["--lr", "nan"], ["--no-such"], ["--config", "missing.yaml"]])
def test_2_usage(data: Path, tmp_path: Path, words: list[str]) -> None:
    assert trained(data, tmp_path, *words) == 2
    assert not (tmp_path / "run").exists()


def test_3_data(tmp_path: Path) -> None:
    assert trained(tmp_path / "missing", tmp_path) == 3


def test_4_weights(data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    assert code_of("validate.py", "--data", data, "--weights", tmp_path / "bad.pt") == 4
    assert code_of("effdet", "convert", tmp_path / "bad.pt", tmp_path / "out.pt") == 4


def test_5_export_is_kept_free() -> None:
    assert errors.ExportError.exit_code == 5


def test_6_diverged(data: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    real = DetectionLoss.__call__

    def call(self: DetectionLoss, *arguments: Any) -> dict[str, torch.Tensor]:
        return {name: loss * torch.nan for name, loss in real(self, *arguments).items()}

    monkeypatch.setattr(DetectionLoss, "__call__", call)
    assert trained(data, tmp_path, "--max-nonfinite", "2") == 6
    assert status(tmp_path)["exit_code"] == 6


def test_8_memory(data: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    def call(self: DetectionLoss, *arguments: Any) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(DetectionLoss, "__call__", call)
    assert trained(data, tmp_path) == 8


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_129_130_143_signals(
    data: Path, tmp_path: Path, monkeypatch: Patch, number: signal.Signals
) -> None:
    tick = RunLog.tick

    def kill(self: RunLog, step: int) -> None:
        tick(self, step)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "tick", kill)
    assert trained(data, tmp_path) == 128 + number
    assert status(tmp_path)["exit_code"] == 128 + number
    assert (tmp_path / "run" / "last.pt").is_file()


@pytest.mark.parametrize("words", [["info", "--build"], ["--help"]])
def test_141_a_reader_that_has_seen_enough(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    assert code_of("effdet", *words) == 141
    assert capsys.readouterr().err == ""
