# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from effdet.scripts import script
from tests.runs import ROOT


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    for name in ("train.py", "pyproject.toml"):
        (root / name).touch()
    return root


def test_a_program_is_named_so_that_it_is_found(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    assert script("train.py", repository) == "train.py"
    (repository / "data").mkdir()
    monkeypatch.chdir(repository / "data")
    assert script("train.py", repository) == "../train.py"
    (repository / "data" / "train.py").touch()  # a program of the user's own
    assert script("train.py", repository) == "../train.py"
    monkeypatch.chdir("/")
    assert Path(script("train.py", repository)).resolve() == repository / "train.py"


def test_far_away_the_path_is_absolute(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = tmp_path.joinpath(*"abcdefghijklmnopqrstuvwxyz" * 3)
    far.mkdir(parents=True)
    monkeypatch.chdir(far)
    assert script("train.py", repository) == str(repository / "train.py")


def test_without_the_repository_the_name_is_all_that_is_known(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (repository / "pyproject.toml").unlink()  # a train.py among installed packages is not ours
    assert script("train.py", repository) == "train.py"
    assert script("train.py", repository / "none") == "train.py"


def test_this_repository_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / script("train.py")).samefile(ROOT / "train.py")
