# SPDX-License-Identifier: Apache-2.0
"""What a run says at its end."""

import shlex
from pathlib import Path

import pytest

from effdet import flags
from effdet.settings import TrainConfig, ValidateConfig
from effdet.training.telling import validate_command
from tests.runs import ROOT


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def parsed(config: TrainConfig, folder: Path) -> ValidateConfig:
    program, script, *words = shlex.split(validate_command(config, folder))
    assert (program, script) == ("python", "validate.py")
    return flags.parse(ValidateConfig, words, program="validate.py", description="")


def test_the_command_validates_what_the_run_validated() -> None:
    config = TrainConfig(
        data="my data",
        val_split="test",
        val_annotations="a b.json",
        val_images="$images",
        follow_links=True,
    )
    expected = ValidateConfig(
        data="my data",
        split="test",
        annotations="a b.json",
        images="$images",
        follow_links=True,
        weights="my runs/1/best.pt",
    )
    assert parsed(config, Path("my runs/1")) == expected


def test_the_command_names_nothing_that_is_usual() -> None:
    command = validate_command(TrainConfig(data="data"), Path("runs/1"))
    assert command == "python validate.py --data data --weights runs/1/best.pt"


def test_from_another_folder_the_program_has_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = validate_command(TrainConfig(data="data"), Path("runs/1"))
    assert (tmp_path / shlex.split(command)[1]).samefile(ROOT / "validate.py")
