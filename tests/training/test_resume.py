# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from effdet import flags
from effdet.config import model_config
from effdet.errors import DataError, UsageError, WeightsError
from effdet.files.folder_lock import FolderLock
from effdet.run_files import BEST, CONFIG, LAST, PREVIOUS
from effdet.settings import TrainConfig
from effdet.structures import ClassMap
from effdet.training.resume import CHANGEABLE, Run, check_same_run, open_run, saved_settings
from effdet.training.run_folder import save_best, save_epoch, save_last
from effdet.weights import Checkpoint, save_checkpoint
from tests.any_weights import any_weights

SMALL: dict[str, Any] = {"model": "efficientdet_lite0", "image_size": (64, 64)}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**(SMALL | changes)).settled(None)


@pytest.fixture(autouse=True)
def _any_weights() -> Iterator[None]:
    with any_weights():
        yield


def checkpoint(step: int, settings: TrainConfig | None = None) -> Checkpoint:
    """Of a run with ``settings``, after so many steps."""
    saved = dataclasses.asdict(settings or config())
    return Checkpoint(
        model_config=model_config("efficientdet_lite0", num_classes=1),
        class_map=ClassMap(("cat",), (1,)),
        model={"weight": torch.zeros(2)},
        ema=None,
        metrics={},
        training={"step": step, "config": saved},
    )


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def opened(settings: TrainConfig) -> Run:
    """The run, whose folder is free again."""
    with ExitStack() as stack:
        return open_run(settings, stack)


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def step_of(run: Run) -> int:
    assert run.resumed is not None
    return int(run.resumed.checkpoint.training["step"])


# ---- open_run: a new run


def test_a_new_run_has_a_folder_with_its_settings(tmp_path: Path) -> None:
    settings = config(output=str(tmp_path / "run"), lr=0.5)
    run = opened(settings)
    assert run.folder == tmp_path / "run"
    assert run.resumed is None
    values = flags.load_yaml(TrainConfig, run.folder / CONFIG)
    assert values["lr"] == 0.5
    assert "output" not in values
    assert flags.build(TrainConfig, values | {"output": settings.output}) == settings


def test_a_new_run_without_a_name_gets_the_next_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [opened(config()).folder.as_posix() for _ in range(2)]
    assert names == ["runs/efficientdet_lite0-1", "runs/efficientdet_lite0-2"]


@pytest.mark.parametrize(("name", "advice"), [(LAST, "--resume "), ("notes.txt", "nothing was")])
def test_a_new_run_never_goes_into_a_folder_that_holds_something(
    name: str, advice: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match=f"exists and is not empty.*{advice}"):
        opened(config(output=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_folder_belongs_to_one_run_at_a_time(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = functools.partial(FolderLock, patience=0.2)
    monkeypatch.setattr("effdet.training.resume.FolderLock", hasty)
    settings = config(output=str(tmp_path / "run"))
    open_run(settings, stack)
    save_last(tmp_path / "run", checkpoint(1, settings))
    for other in (
        config(resume=str(tmp_path / "run")),
        config(resume="auto", output=settings.output),
    ):
        with pytest.raises(UsageError, match="in use by") as caught:
            opened(other)
        assert len(str(caught.value).splitlines()) == 1
    stack.close()
    assert step_of(opened(config(resume=str(tmp_path / "run")))) == 1


# ---- open_run: --resume auto


def test_auto_without_anything_is_a_new_run(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", new_folder(tmp_path / "empty")):
        run = opened(config(resume="auto", output=str(folder)))
        assert run.folder == folder
        assert run.resumed is None
        assert (folder / CONFIG).is_file()


def test_auto_in_a_folder_of_something_else_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="exists and is not empty"):
        opened(config(resume="auto", output=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_auto_begins_anew_where_a_run_was_killed_before_its_first_checkpoint(
    tmp_path: Path,
) -> None:
    settings = config(resume="auto", output=str(tmp_path))
    for _ in range(3):
        run = opened(settings)
        assert run.folder == tmp_path
        assert run.resumed is None
    with pytest.raises(UsageError, match=r"other settings: --lr 0\.5 \(was 0\.08\)"):
        opened(dataclasses.replace(settings, lr=0.5))


def test_auto_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    settings = config(resume="auto", output=str(tmp_path))
    opened(settings)
    for step in (1, 2):
        save_last(tmp_path, checkpoint(step, settings))
    run = opened(settings)
    assert run.folder == tmp_path
    assert run.resumed is not None
    assert run.resumed.path == tmp_path / LAST
    assert step_of(run) == 2
    with pytest.raises(UsageError, match=r"last\.pt is a run with other settings: --lr 0\.5"):
        opened(dataclasses.replace(settings, lr=0.5))


def test_auto_does_not_need_the_settings_file(tmp_path: Path) -> None:
    save_last(tmp_path, checkpoint(3))
    assert step_of(opened(config(resume="auto", output=str(tmp_path)))) == 3


# ---- open_run: --resume a folder or a file


def test_a_folder_or_a_file_goes_on_where_it_is(tmp_path: Path) -> None:
    for step in (1, 2):
        save_last(tmp_path, checkpoint(step))
    save_epoch(tmp_path, checkpoint(1), 1, keep=0)
    for words, step in ((tmp_path, 2), (tmp_path / PREVIOUS, 1), (tmp_path / "epoch-0001.pt", 1)):
        run = opened(config(resume=str(words)))
        assert run.folder == tmp_path
        assert step_of(run) == step


def test_a_damaged_last_one_costs_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        save_last(tmp_path, checkpoint(step))
    damage(tmp_path / LAST)
    for settings in (config(resume=str(tmp_path)), config(resume="auto", output=str(tmp_path))):
        run = opened(settings)
        assert run.resumed is not None
        assert run.resumed.path == tmp_path / PREVIOUS
        assert step_of(run) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"train.py: warning: {tmp_path / LAST}: damaged")
        assert line.endswith("; going on from previous.pt")
    damage(tmp_path / PREVIOUS)
    with pytest.raises(WeightsError, match="no checkpoint that the run can go on from"):
        opened(config(resume="auto", output=str(tmp_path)))


def test_weights_for_use_cannot_be_resumed(tmp_path: Path) -> None:
    save_best(tmp_path, checkpoint(1))
    for ask in (
        lambda: opened(config(resume=str(tmp_path / BEST))),
        lambda: saved_settings({"resume": str(tmp_path / BEST)}),
    ):
        with pytest.raises(WeightsError, match=r"best\.pt: holds weights only") as caught:
            ask()
        assert f"--weights {tmp_path / BEST}" in str(caught.value)
        assert str(tmp_path / LAST) in str(caught.value)


def test_a_damaged_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    for step in (1, 2):
        save_last(tmp_path, checkpoint(step))
    damage(tmp_path / LAST)
    with pytest.raises(WeightsError, match=r"last\.pt: damaged"):
        opened(config(resume=str(tmp_path / LAST)))


@pytest.mark.parametrize("name", ["nowhere", "nowhere/last.pt"])
def test_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(WeightsError, match=f"{path}: no such weights file"):
        saved_settings({"resume": str(path)})
    assert not path.exists()


def test_leftovers_of_a_killed_save_are_cleared(tmp_path: Path) -> None:
    save_last(tmp_path, checkpoint(1))
    leftover = tmp_path / ".last.pt.tmp-4194305"  # above the largest process id
    leftover.touch()
    opened(config(resume=str(tmp_path)))
    assert not leftover.exists()


# ---- saved_settings


@pytest.mark.parametrize("given", [{}, {"resume": None}, {"resume": "auto", "output": "a"}])
def test_without_a_run_to_resume_there_are_no_saved_settings(given: dict[str, Any]) -> None:
    assert saved_settings(given) == {}


def test_saved_settings_are_those_of_the_run_but_for_its_place(tmp_path: Path) -> None:
    settings = config(lr=0.5, output="elsewhere", multi_scale=(0.5, 1.5), workers=3)
    save_last(tmp_path, checkpoint(1, settings))
    values = saved_settings({"resume": str(tmp_path)})
    assert "output" not in values
    assert "resume" not in values
    assert TrainConfig(**values) == dataclasses.replace(settings, output=None)


def test_settings_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    later = checkpoint(1)
    training = {**later.training, "config": {**later.training["config"], "warp": 9}}
    save_checkpoint(dataclasses.replace(later, training=training), tmp_path / LAST)
    assert "warp" not in saved_settings({"resume": str(tmp_path)})
    assert step_of(opened(config(resume=str(tmp_path)))) == 1


# ---- check_same_run


def test_all_differing_settings_are_shown_with_both_values(tmp_path: Path) -> None:
    saved = dataclasses.asdict(config())
    with pytest.raises(UsageError) as caught:
        check_same_run(
            config(lr=0.5, seed=3, multi_scale=(0.5, 2.0), epochs=9, fusion="sum"),
            saved,
            tmp_path / LAST,
        )
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{tmp_path / LAST} is a run with other settings: ")
    shown = message.split(": ", 1)[1].split("; give its own", 1)[0]
    assert shown.split(", --") == [
        "--fusion sum (was None)",
        "multi-scale (0.5, 2.0) (was None)",
        "lr 0.5 (was 0.08)",
        "seed 3 (was 0)",
    ]


def test_the_same_settings_are_the_same_run_in_whatever_form(tmp_path: Path) -> None:
    settings = config(multi_scale=(0.5, 2.0))
    saved = dataclasses.asdict(settings)
    check_same_run(settings, saved, tmp_path)
    check_same_run(settings, {**saved, "multi_scale": [0.5, 2.0], "warp": 9}, tmp_path)
    without = {name: value for name, value in saved.items() if name != "lr"}
    check_same_run(dataclasses.replace(settings, lr=0.5), without, tmp_path)  # an older version's


OTHER: dict[str, Any] = {
    "epochs": 7, "batch_size": 3, "accumulate": 2, "workers": 1, "device": "cuda", "data": "x",
    "train_annotations": "x", "train_images": "x", "val_annotations": "x", "val_images": "x",
    "output": "x", "resume": "x", "timeout": 5.0, "save_minutes": 1.0, "save_every": 2, "keep": 9,
    "eval_every": 2, "eval_from": 2, "eval_weights": "raw", "patience": 3, "log_every": 5,
    "console": "lines", "log_to": ("tensorboard",), "evaluator": "pycocotools",
    "max_nonfinite": 7, "max_bad_images": 0.5, "detect_anomaly": True,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CHANGEABLE))
def test_what_does_not_make_another_run_may_change(name: str, tmp_path: Path) -> None:
    check_same_run(config(**{name: OTHER[name]}), dataclasses.asdict(config()), tmp_path)


def end_by_a_mistake(folder: Path, step: int) -> None:
    with ExitStack() as stack:
        run = open_run(config(output=str(folder)), stack)
        (run.folder / "status.json").write_text(json.dumps({"epoch": 1, "step": step}))
        raise DataError("an image is damaged")


@pytest.mark.parametrize(("step", "kept"), [(0, False), (3, True)])
def test_a_run_that_has_trained_keeps_its_folder_when_a_mistake_ends_it(
    step: int, kept: bool, tmp_path: Path
) -> None:
    with pytest.raises(DataError):
        end_by_a_mistake(tmp_path / "run", step)
    assert (tmp_path / "run").exists() == kept
