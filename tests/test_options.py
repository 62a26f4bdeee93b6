# SPDX-License-Identifier: Apache-2.0
"""Every option of every program is read by the program, beyond being checked and saved."""

import dataclasses
import sys
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

import train
import validate
from effdet import cli
from effdet.commands import average, convert_data, download, predict
from effdet.settings import (
    AverageConfig,
    DownloadConfig,
    PredictConfig,
    TrainConfig,
    ValidateConfig,
)
from effdet.settings.convert_data import ConvertDataConfig
from tests.runs import tiny_coco

SMALL = ["--workers", "0", "--batch-size", "2", "--device", "cpu"]


def is_within(name: str, frame: FrameType | None) -> bool:
    """Whether ``frame``, or one that called it, is of a function of this name."""
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None


def recording(cls: type[Any]) -> tuple[type[Any], set[str]]:
    """A subclass of ``cls`` and the set of the fields that a program has read from it."""
    read: set[str] = set()
    names = {field.name for field in dataclasses.fields(cls)}

    class Recording(cls):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            caller = sys._getframe(1)
            checking = is_within("__post_init__", caller)
            saving = caller.f_globals["__name__"] == "dataclasses"
            if name in names and not checking and not saving:
                read.add(name)
            return super().__getattribute__(name)

    return dataclasses.dataclass(frozen=True, kw_only=True)(Recording), read


def record(monkeypatch: pytest.MonkeyPatch, program: ModuleType, cls: type[Any]) -> set[str]:
    """The fields that ``program``, from now on, reads from the settings it makes of ``cls``."""
    recorded, read = recording(cls)
    monkeypatch.setattr(program, cls.__name__, recorded)
    return read


def unread(cls: type[Any], read: set[str]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)} - read


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "tiny", images=2)


@pytest.fixture(scope="module")
def run_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A run of train.py, and the options it read."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train.py", "--data", str(data), *SMALL, "--model", "efficientdet_lite0"]
    words += ["--image-size", "64", "--epochs", "1", "--output", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        read = record(patch, train, TrainConfig)
        patch.setattr(sys, "argv", words)
        train.main()
    return folder, read


def test_train_reads_every_option(run_folder: tuple[Path, set[str]]) -> None:
    assert unread(TrainConfig, run_folder[1]) == set()


def test_validate_reads_every_option(
    run_folder: tuple[Path, set[str]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = record(monkeypatch, validate, ValidateConfig)
    words = [
        "validate.py",
        "--data",
        str(data),
        *SMALL,
        "--weights",
        str(run_folder[0] / "last.pt"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    validate.main()
    assert unread(ValidateConfig, read) == set()


def test_predict_reads_every_option(
    run_folder: tuple[Path, set[str]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = record(monkeypatch, predict, PredictConfig)
    weights = ["--weights", str(run_folder[0] / "best.pt"), "--output", str(tmp_path / "out")]
    cli.run_command(["predict", str(data / "val"), *weights, "--device", "cpu"])
    assert unread(PredictConfig, read) == set()
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_average_reads_every_option(
    run_folder: tuple[Path, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = record(monkeypatch, average, AverageConfig)
    files = [str(run_folder[0] / name) for name in ("best.pt", "last.pt")]
    cli.run_command(["average", *files, "--best", "2", "--output", str(tmp_path / "out.pt")])
    assert unread(AverageConfig, read) == set()


def test_convert_data_reads_every_option(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = record(monkeypatch, convert_data, ConvertDataConfig)
    cli.run_command(["convert-data", str(data), str(tmp_path / "out"), "--to", "yolo"])
    assert unread(ConvertDataConfig, read) == set()


def test_download_reads_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    read = record(monkeypatch, download, DownloadConfig)
    monkeypatch.setattr(download, "download_coco2017", lambda folder, parts: folder)
    cli.run_command(["download", "coco2017", "--output", "here", "--parts", "val", "train"])
    assert unread(DownloadConfig, read) == set()
