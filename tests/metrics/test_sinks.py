# SPDX-License-Identifier: Apache-2.0
"""The trackers, by modules that stand for them; TensorBoard also by its own reader, if there."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from effdet.errors import UsageError
from effdet.metrics.run_log import RunLog
from effdet.metrics.sinks import TRACKERS, RunInfo, open_sink, require_installed
from tests.metrics.conftest import AP, STEP, status

NUMBERS = {f"train/{name}": value for name, value in STEP.items()}


class Calls(list[tuple[Any, ...]]):
    """A record of calls: ``calls.made("log")`` is a function that is recorded as ``log``."""

    def made(self, name: str, result: Any = None) -> Any:
        def record(*arguments: Any, **options: Any) -> Any:
            self.append((name, *arguments, *([options] if options else [])))
            return result

        return record


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    run = SimpleNamespace(log=calls.made("log"), finish=calls.made("finish"))
    module: Any = ModuleType("wandb")
    module.init = calls.made("init", run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    module: Any = ModuleType("mlflow")
    module.start_run = calls.made("start_run", SimpleNamespace(info=SimpleNamespace(run_id="r7")))
    for name in ("log_params", "log_metrics", "end_run"):
        setattr(module, name, calls.made(name))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return calls


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    writer = SimpleNamespace(
        **{name: calls.made(name) for name in ("add_scalar", "add_text", "close")}
    )
    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = calls.made("SummaryWriter", writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    return calls


def run_info(folder: Path, first_step: int = 0) -> RunInfo:
    return RunInfo(folder=folder, name="mine", parameters={"lr": 0.1}, first_step=first_step)


def train(folder: Path, *sinks: Any, resume: int = 0) -> None:
    """An epoch of ten steps, the second one where the run is resumed."""
    with RunLog(folder, epochs=2, steps_per_epoch=10, console="lines", log_to=sinks) as log:
        log.parameters({"lr": 0.1})
        log.resume_at(resume, [])
        log.begin_epoch(1 + resume // 10)
        log.step(5, STEP | {"grad_norm": float("nan")})
        log.tick(10)
        log.end_epoch({"loss": 1.0}, AP)
        log.finish({"best_AP": 0.5})


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
@pytest.mark.parametrize("main", [True, False])
def test_a_tracker_that_is_not_installed_is_a_mistake_on_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, main: bool
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    folder = tmp_path if main else None
    with pytest.raises(UsageError, match=f"--log-to {name} needs .* pip install {name}"):
        RunLog(folder, epochs=1, steps_per_epoch=1, log_to=(name,))
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_nobody_asked_for_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it would fail
    require_installed(())
    train(tmp_path)
    assert status(tmp_path)["state"] == "finished"
    assert "lost_records" not in status(tmp_path)


def test_wandb_gets_the_finite_numbers_at_the_step_of_the_run(tmp_path: Path, wandb: Calls) -> None:
    train(tmp_path, "wandb", resume=10)
    (name, options), *logged, finish = wandb
    assert name == "init"
    assert (options["name"], options["config"]) == (tmp_path.name, {"lr": 0.1})
    assert options["resume"] == "allow"
    assert finish == ("finish", {"exit_code": 0})
    assert all(call[0] == "log" for call in logged)
    steps = [call[2]["step"] for call in logged]
    assert steps == [15, 20, 20, 20]
    memory = logged[0][1].pop("train/memory")
    assert memory > 0
    assert logged[0][1] == {k: v for k, v in NUMBERS.items() if k != "train/grad_norm"}
    assert logged[1][1]["epoch/loss"] == 1.0
    assert logged[2][1] == {f"val/{k}": v for k, v in AP.items() if v is not None}
    assert logged[3][1] == {"run/best_AP": 0.5}


def test_a_wandb_run_that_goes_on_keeps_its_id(tmp_path: Path, wandb: Calls) -> None:
    for _ in range(2):
        open_sink("wandb", run_info(tmp_path))
    ids = [call[1]["id"] for call in wandb]
    assert ids[0] == ids[1] == json.loads((tmp_path / TRACKERS).read_text())["wandb"]
    other = tmp_path / "other"
    other.mkdir()
    open_sink("wandb", run_info(other))
    assert wandb[-1][1]["id"] != ids[0]


def test_mlflow_gets_parameters_once_and_numbers_at_their_step(
    tmp_path: Path, mlflow: Calls
) -> None:
    sink = open_sink("mlflow", run_info(tmp_path))
    sink.log(5, {"train/loss": 1.5})
    sink.close("finished")
    assert mlflow == [
        ("start_run", {"run_id": None, "run_name": "mine"}),
        ("log_params", {"lr": "0.1"}),
        ("log_metrics", {"train/loss": 1.5}, {"step": 5}),
        ("end_run", {"status": "FINISHED"}),
    ]
    mlflow.clear()
    open_sink("mlflow", run_info(tmp_path)).close("preempted")
    assert mlflow == [
        ("start_run", {"run_id": "r7", "run_name": None}),
        ("end_run", {"status": "KILLED"}),
    ]


def test_a_run_that_fails_is_failed_to_the_trackers(
    tmp_path: Path, wandb: Calls, mlflow: Calls
) -> None:
    log = RunLog(tmp_path, epochs=1, steps_per_epoch=1, log_to=("wandb", "mlflow"))
    log.begin_epoch(1)
    with pytest.raises(RuntimeError), log:
        raise RuntimeError("broken")
    assert wandb[-1] == ("finish", {"exit_code": 1})
    assert mlflow[-1] == ("end_run", {"status": "FAILED"})


def test_tensorboard_hides_what_came_after_the_step_that_is_resumed_at(
    tmp_path: Path, tensorboard: Calls
) -> None:
    train(tmp_path, "tensorboard", resume=10)
    assert tensorboard[0] == (
        "SummaryWriter",
        str(tmp_path / "tensorboard"),
        {"purge_step": 11, "flush_secs": 10},
    )
    assert ("add_scalar", "train/loss", 1.5, 15) in tensorboard
    assert ("add_scalar", "val/AP", 0.5, 20) in tensorboard
    assert not any("grad_norm" in str(call) for call in tensorboard)
    assert tensorboard[-1] == ("close",)


def test_a_tracker_that_fails_is_told_once_and_ends_no_training(
    tmp_path: Path, wandb: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no\nnetwork")

    wandb.clear()
    sys.modules["wandb"].init().log = refuse
    train(tmp_path, "wandb")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: wandb cannot be written (no network); the training goes on"]
    assert status(tmp_path)["state"] == "finished"
    assert status(tmp_path)["lost_records"] == 4
    sys.modules["wandb"].init = refuse  # type: ignore[attr-defined]
    train(tmp_path, "wandb")
    assert status(tmp_path)["lost_records"] == 1


def test_other_processes_open_no_tracker(wandb: Calls) -> None:
    with RunLog(None, epochs=1, steps_per_epoch=1, log_to=("wandb",)) as log:
        log.begin_epoch(1)
        log.step(1, STEP)
        log.finish({})
    assert wandb == []


def test_tensorboards_own_reader_finds_the_values(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, "tensorboard")
    train(tmp_path, "tensorboard", resume=10)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    loss = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert loss == [(5, 1.5), (15, 1.5)]
    assert [(event.step, event.value) for event in events.Scalars("val/AP")] == [
        (10, 0.5),
        (20, 0.5),
    ]
