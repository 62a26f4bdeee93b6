# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch

from effdet.config import TrainConfig
from effdet.errors import UsageError, WeightsError
from effdet.structures import ClassMap
from effdet.training import (
    BEST,
    Checkpointer,
    create_run_folder,
    load_resumed,
    seed_epoch,
    train_one_epoch,
)
from effdet.training.engine import Trainer
from effdet.weights import load_checkpoint
from tests.training.conftest import CLASS_MAP, CONFIG, MakeTrainer, two_images


def checkpointer(folder: Path | None, class_map: ClassMap = CLASS_MAP) -> Checkpointer:
    return Checkpointer(folder, TrainConfig(image_size=(64, 64)), CONFIG, class_map)


def epoch(trainer: Trainer, number: int) -> None:
    seed_epoch(0, number)
    train_one_epoch(trainer, [two_images()] * 2, log_every=9, report=lambda *_: None)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Model and average."""
    assert trainer.ema is not None
    average = {f"ema.{n}": t for n, t in trainer.ema.module.state_dict().items()}
    return {**trainer.bare_model.state_dict(), **average}


def test_a_resumed_run_is_bit_equal_to_one_that_was_not_interrupted(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole = make_trainer()
    saver = checkpointer(tmp_path)
    epoch(whole, 1)
    saver.save(whole, 1, {"AP": 0.5})
    epoch(whole, 2)

    resumed, restorer = make_trainer(seed=7), checkpointer(tmp_path)
    assert restorer.restore(resumed, load_resumed(str(tmp_path)), tmp_path, 2) == 2
    assert restorer.best == 0.5
    assert resumed.step == 2
    epoch(resumed, 2)
    expected = weights(whole)
    assert all(torch.equal(t, expected[n]) for n, t in weights(resumed).items())
    assert resumed.step == whole.step == 4
    assert resumed.ema is not None
    assert whole.ema is not None
    assert resumed.ema.updates == whole.ema.updates == 4


def test_the_best_checkpoint_changes_only_for_a_higher_ap(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer, saver = make_trainer(), checkpointer(tmp_path)
    saver.save(trainer, 1, {})
    assert not (tmp_path / BEST).exists()  # not validated yet
    for number, ap, best in ((2, 0.2, 2), (3, 0.1, 2), (4, 0.2, 2), (5, 0.3, 5), (6, None, 5)):
        saver.save(trainer, number, {"AP": ap})
        assert load_checkpoint(tmp_path / BEST).metrics["epoch"] == best
        assert load_checkpoint(tmp_path / "last.pt").metrics == {"epoch": number, "AP": ap}
    assert saver.best == 0.3


def test_an_ap_that_could_not_be_computed_is_better_than_none_at_all(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    saver = checkpointer(tmp_path)
    saver.save(make_trainer(), 1, {"AP": None})
    assert (tmp_path / BEST).exists()
    saver.save(make_trainer(), 2, {"AP": 0.0})
    assert load_checkpoint(tmp_path / BEST).metrics["epoch"] == 2


def test_last_can_be_continued_and_best_is_for_use_only(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    checkpointer(tmp_path).save(make_trainer(), 1, {"AP": 0.1})
    checkpoint = load_resumed(str(tmp_path / "last.pt"))
    assert checkpoint.training["epoch"] == 1
    assert checkpoint.training["config"]["image_size"] == (64, 64)
    with pytest.raises(WeightsError, match="holds weights only; continue from") as caught:
        load_resumed(str(tmp_path / BEST))
    assert f"--weights {tmp_path / BEST}" in str(caught.value)


def test_without_a_folder_nothing_is_written_but_the_best_is_known(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saver = checkpointer(None)
    saver.save(make_trainer(), 1, {"AP": 0.4})
    assert saver.best == 0.4
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_other_classes_is_not_continued(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    checkpointer(tmp_path).save(make_trainer(), 1, {})
    other = checkpointer(tmp_path, ClassMap(("red", "green"), (1, 2)))
    with pytest.raises(WeightsError, match=r"other classes than the data has now.*--weights"):
        other.restore(make_trainer(), load_resumed(str(tmp_path)), tmp_path, 2)


def test_with_other_steps_an_epoch_the_schedule_goes_on_where_the_epoch_ended(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    saver, first = checkpointer(tmp_path), make_trainer()
    epoch(first, 1)
    saver.save(first, 1, {})
    resumed = make_trainer()
    assert checkpointer(tmp_path).restore(resumed, load_resumed(str(tmp_path)), tmp_path, 16) == 2
    assert resumed.step == 16


def test_a_folder_without_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"last\.pt: no such weights file"):
        load_resumed(str(tmp_path))


def test_a_run_folder_is_never_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    assert create_run_folder(str(folder), "model") == folder
    assert create_run_folder(str(folder), "model") == folder  # still empty
    (folder / "last.pt").touch()
    with pytest.raises(UsageError, match=f"--resume {folder}"):
        create_run_folder(str(folder), "model")
    with pytest.raises(UsageError, match="exists and is not a folder"):
        create_run_folder(str(folder / "last.pt"), "model")


def test_unnamed_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [create_run_folder(None, "lite0").as_posix() for _ in range(3)]
    assert made == ["runs/lite0-1", "runs/lite0-2", "runs/lite0-3"]


def test_what_is_drawn_depends_on_seed_and_epoch_only() -> None:
    def draw(seed: int, number: int) -> float:
        seed_epoch(seed, number)
        return torch.rand(1).item()

    assert draw(0, 1) == draw(0, 1)
    assert len({draw(seed, number) for seed in range(3) for number in range(3)}) == 9
