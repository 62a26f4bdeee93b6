# SPDX-License-Identifier: Apache-2.0
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from effdet.config import model_config
from effdet.errors import DivergedError, UsageError, WeightsError
from effdet.run_files import BEST, LAST, PREVIOUS
from effdet.structures import ClassMap
from effdet.training.run_folder import (
    create_run_folder,
    load_resumed,
    newest_checkpoint,
    resume_path,
    save_epoch,
    save_last,
)
from effdet.weights import Checkpoint, load_checkpoint, save_checkpoint
from tests.any_weights import any_weights


@pytest.fixture(autouse=True)
def _any_weights() -> Iterator[None]:
    with any_weights():
        yield


def checkpoint(step: int, value: float | None = None, **training: object) -> Checkpoint:
    """Of a run whose only weight is ``value``, by default the step."""
    return Checkpoint(
        model_config=model_config("efficientdet_lite0", num_classes=1),
        class_map=ClassMap(("cat",), (1,)),
        model={"weight": torch.tensor([float(step) if value is None else value])},
        ema=None,
        metrics={},
        training={"step": step, **training},
    )


def step_of(path: Path) -> int:
    return int(load_checkpoint(path).training["step"])


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)


class Found:
    """What :func:`newest_checkpoint` finds: file name, step, warnings."""

    def __init__(self, folder: Path) -> None:
        self.warnings: list[str] = []
        found = newest_checkpoint(folder, self.warnings.append)
        assert found is not None
        self.name, self.step = found[0].name, found[1].training["step"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_folder_is_never_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    assert create_run_folder(str(folder), "model") == folder
    assert create_run_folder(str(folder), "model") == folder  # still empty
    (folder / "notes.txt").touch()
    with pytest.raises(UsageError, match="nothing was saved there"):
        create_run_folder(str(folder), "model")
    (folder / "epoch-0001.pt").touch()
    with pytest.raises(UsageError, match=f"--resume {folder}"):
        create_run_folder(str(folder), "model")
    with pytest.raises(UsageError, match="exists and is not a folder"):
        create_run_folder(str(folder / "notes.txt"), "model")


def test_unnamed_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [create_run_folder(None, "lite0").as_posix() for _ in range(3)]
    assert made == ["runs/lite0-1", "runs/lite0-2", "runs/lite0-3"]


def test_a_folder_or_a_file_can_be_resumed(tmp_path: Path) -> None:
    assert resume_path(str(tmp_path)) == tmp_path / LAST
    assert resume_path(str(tmp_path / "a.pt")) == tmp_path / "a.pt"
    with pytest.raises(WeightsError, match=r"last\.pt: no such weights file"):
        load_resumed(str(tmp_path), pytest.fail)
    save_last(tmp_path, checkpoint(3, config={"epochs": 2}))
    path, found = load_resumed(str(tmp_path), pytest.fail)
    assert (path, found.training["step"]) == (tmp_path / LAST, 3)


def test_what_cannot_be_resumed_says_why(tmp_path: Path) -> None:
    save_checkpoint(dataclasses.replace(checkpoint(1), training={}), tmp_path / BEST)
    with pytest.raises(WeightsError, match="holds weights only; continue from") as caught:
        load_resumed(str(tmp_path / BEST), pytest.fail)
    assert f"--weights {tmp_path / BEST}" in str(caught.value)
    save_last(tmp_path, checkpoint(1))
    with pytest.raises(WeightsError, match="no settings of the run"):
        load_resumed(str(tmp_path), pytest.fail)


def test_the_save_before_the_last_is_kept(tmp_path: Path) -> None:
    save_last(tmp_path, checkpoint(1))
    assert names(tmp_path) == [LAST]
    for step in (2, 3):
        save_last(tmp_path, checkpoint(step))
        assert names(tmp_path) == [LAST, PREVIOUS]
        assert (step_of(tmp_path / LAST), step_of(tmp_path / PREVIOUS)) == (step, step - 1)


def test_weights_that_are_not_finite_overwrite_nothing(tmp_path: Path) -> None:
    for step in (1, 2):
        save_last(tmp_path, checkpoint(step))
    with pytest.raises(DivergedError):
        save_last(tmp_path, checkpoint(3, float("nan")))
    with pytest.raises(DivergedError):
        save_epoch(tmp_path, checkpoint(3, float("nan")), 1, keep=1)
    assert names(tmp_path) == [LAST, PREVIOUS]
    assert (step_of(tmp_path / LAST), step_of(tmp_path / PREVIOUS)) == (2, 1)


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [10001]), (2, [9999, 10001]), (0, [9, 9999, 10001])]
)
def test_checkpoints_of_epochs_are_pruned_by_number(
    tmp_path: Path, keep: int, left: list[int]
) -> None:
    for name in ("epoch-final.pt", "epoch-1.pt", "best.pt"):
        (tmp_path / name).touch()
    for epoch in (9, 9999, 10001):
        save_epoch(tmp_path, checkpoint(epoch), epoch, keep)
        assert step_of(tmp_path / f"epoch-{epoch:04d}.pt") == epoch
    others = ["best.pt", "epoch-1.pt", "epoch-final.pt"]
    assert names(tmp_path) == sorted([*others, *(f"epoch-{k:04d}.pt" for k in left)])


def test_a_new_folder_has_no_newest_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(dataclasses.replace(checkpoint(1), training={}), tmp_path / BEST)
    assert newest_checkpoint(tmp_path, pytest.fail) is None
    assert newest_checkpoint(tmp_path / "no", pytest.fail) is None


def test_the_newest_checkpoint_is_the_last_then_that_of_the_latest_step(tmp_path: Path) -> None:
    for step in (4, 5):
        save_last(tmp_path, checkpoint(step))
    save_epoch(tmp_path, checkpoint(6), 2, keep=0)  # of a line of the run that was given up
    found = Found(tmp_path)
    assert (found.name, found.step, found.warnings) == (LAST, 5, [])
    damage(tmp_path / LAST)
    found = Found(tmp_path)
    assert (found.name, found.step, len(found.warnings)) == ("epoch-0002.pt", 6, 1)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_last(tmp_path, checkpoint(step))
        if step == 1:
            save_epoch(tmp_path, checkpoint(1), 1, keep=0)
    damage(tmp_path / LAST)
    found = Found(tmp_path)
    assert (found.name, found.step) == (PREVIOUS, 2)
    (warning,) = found.warnings
    assert warning.startswith(f"{tmp_path / LAST}: damaged: not the bytes")
    assert warning.endswith("; going on from previous.pt")
    (tmp_path / PREVIOUS).write_bytes(b"")
    found = Found(tmp_path)
    assert (found.name, found.step, len(found.warnings)) == ("epoch-0001.pt", 1, 2)


def test_a_save_after_damage_never_loses_the_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save_last(tmp_path, checkpoint(step))
    damage(tmp_path / LAST)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            save_last(tmp_path, checkpoint(2))
    assert Found(tmp_path).step == 1
    save_last(tmp_path, checkpoint(2, 9.0))
    found = Found(tmp_path)
    assert (found.name, found.step) == (LAST, 2)


def test_weights_without_training_state_are_passed_over(tmp_path: Path) -> None:
    for step in (1, 2):
        save_last(tmp_path, checkpoint(step))
    save_checkpoint(checkpoint(3, value=1.0), tmp_path / "other.pt")
    bare = dataclasses.replace(checkpoint(3), training={})
    save_checkpoint(bare, tmp_path / LAST)
    found = Found(tmp_path)
    assert (found.name, found.step) == (PREVIOUS, 1)


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_anew(tmp_path: Path) -> None:
    for step in (1, 2):
        save_last(tmp_path, checkpoint(step))
    damage(tmp_path / LAST)
    damage(tmp_path / PREVIOUS)
    with pytest.raises(WeightsError) as caught:
        newest_checkpoint(tmp_path, pytest.fail)
    message = str(caught.value)
    assert f"{tmp_path / LAST}: damaged" in message
    assert f"{tmp_path / PREVIOUS}: damaged" in message
    assert message.endswith("name another folder")
