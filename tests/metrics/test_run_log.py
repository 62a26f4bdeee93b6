# SPDX-License-Identifier: Apache-2.0
import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from effdet.errors import DataError
from effdet.metrics import FIGURES, JsonLines, RunLog, append_csv, build_json_backend, duration

STEP = {
    "loss": 1.5, "cls_loss": 0.5, "box_loss": 0.02, "lr": 0.08, "grad_norm": 3.0,
    "images_per_second": 12.0, "data_share": 0.01,
}  # fmt: skip
AP = dict.fromkeys(FIGURES, 0.5) | {"APs": None}


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path, epochs=2, steps_per_epoch=10)


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert all(line.startswith("DLLL {") for line in lines)
    return [json.loads(line.removeprefix("DLLL "), parse_constant=pytest.fail) for line in lines]


def status(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return values


def test_log_lines_have_the_shape_of_dllogger(log: RunLog, tmp_path: Path) -> None:
    log.parameters({"lr": 0.08, "image_size": (64, 96)})
    log.begin_epoch(1)
    log.step(5, STEP)
    log.end_epoch({"loss": 1.0}, AP)
    log.finish({"best_AP": 0.5})
    found = records(tmp_path)
    assert [record["step"] for record in found] == ["PARAMETER", [1, 5], [1], []]
    for record in found:
        assert list(record) == ["timestamp", "datetime", "elapsedtime", "type", "step", "data"]
        assert record["type"] == "LOG"
        assert float(record["timestamp"]) > 1.6e9
        assert float(record["elapsedtime"]) >= 0
    assert found[0]["data"] == {"lr": 0.08, "image_size": [64, 96]}
    assert found[1]["data"] == STEP
    assert found[2]["data"] == {"loss": 1.0, **AP}


def test_numbers_that_json_has_not_become_null(log: RunLog, tmp_path: Path) -> None:
    log.begin_epoch(1)
    log.step(1, STEP | {"loss": math.nan, "grad_norm": math.inf})
    log.finish({"best_AP": -math.inf})
    assert records(tmp_path)[0]["data"]["loss"] is None
    assert records(tmp_path)[0]["data"]["grad_norm"] is None
    assert status(tmp_path)["best_AP"] is None


def test_the_table_has_a_line_an_epoch_and_all_figures(log: RunLog, tmp_path: Path) -> None:
    for number, figures in ((1, {}), (2, AP)):
        log.begin_epoch(number)
        log.end_epoch({"loss": 1.0 / number}, figures)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert list(rows[0]) == ["epoch", "loss", *FIGURES]
    assert [row["loss"] for row in rows] == ["1.0", "0.5"]
    assert [row["AP"] for row in rows] == ["", "0.5"]
    assert rows[1]["APs"] == ""


def test_figures_are_cocos_in_cocos_order() -> None:
    assert FIGURES == (
        "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
    )  # fmt: skip


def test_a_table_keeps_its_columns_when_a_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    append_csv(path, {"epoch": 1, "loss": 0.5})
    append_csv(path, {"loss": 0.25, "new": 9, "epoch": 2})
    append_csv(path, {"epoch": 3})
    assert path.read_text().split() == ["epoch,loss", "1,0.5", "2,0.25", "3,"]


def test_the_status_tells_programs_where_the_run_is(log: RunLog, tmp_path: Path) -> None:
    log.begin_epoch(2)
    assert status(tmp_path)["state"] == "training"
    log.status("validating")
    assert (status(tmp_path)["state"], status(tmp_path)["epoch"]) == ("validating", 2)
    log.finish({"best_AP": 0.25})
    assert status(tmp_path) == {
        "state": "finished", "time": pytest.approx(log.start, abs=60), "epoch": 2, "epochs": 2,
        "best_AP": 0.25,
    }  # fmt: skip
    assert not (tmp_path / "status.json.tmp").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("no images"), 3), (OSError("disk full"), 1), (KeyboardInterrupt("x"), 130)],
)
def test_a_run_that_ends_before_its_time_leaves_word(
    log: RunLog, tmp_path: Path, error: BaseException, code: int
) -> None:
    log.begin_epoch(1)
    with pytest.raises(type(error)), log:
        raise error
    found = status(tmp_path)
    assert (found["state"], found["epoch"], found["exit_code"]) == ("failed", 1, code)
    assert found["error"] == f"{type(error).__name__}: {error}"


def test_a_run_that_ends_in_time_is_not_failed(log: RunLog, tmp_path: Path) -> None:
    with log:
        log.finish({})
    assert status(tmp_path)["state"] == "finished"


def test_a_line_on_the_console_tells_loss_rate_and_time_left(
    log: RunLog, capsys: pytest.CaptureFixture[str]
) -> None:
    log.begin_epoch(2)
    log.resume_at(10)
    log.start -= 50  # five steps since the resume, ten seconds each: five are left
    log.step(5, STEP)
    line = capsys.readouterr().out
    assert line.startswith("epoch 2/2  step 5/10  loss 1.5000 (cls 0.5000 box 0.02000)")
    assert "12.0 img/s" in line
    assert line.rstrip().endswith("left 0:00:50")


def test_an_epoch_on_the_console_is_in_percent(
    log: RunLog, capsys: pytest.CaptureFixture[str]
) -> None:
    log.begin_epoch(1)
    log.end_epoch({"loss": 1.0}, {})
    assert capsys.readouterr().out == ""
    log.end_epoch({"loss": 1.0}, AP)
    assert "AP 50.0  AP50 50.0  AP75 50.0  APs -" in capsys.readouterr().out


def test_other_processes_write_and_print_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    log = RunLog(None, epochs=1, steps_per_epoch=1)
    log.parameters({"lr": 1})
    log.begin_epoch(1)
    log.step(1, STEP)
    log.end_epoch(STEP, AP)
    log.finish({})
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_continued_not_replaced(tmp_path: Path) -> None:
    for number in (1, 2):
        RunLog(tmp_path, epochs=2, steps_per_epoch=1).parameters({"run": number})
    assert [record["data"]["run"] for record in records(tmp_path)] == [1, 2]


def test_dllogger_writes_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dllogger.py").write_text(
        "class Verbosity:\n"
        "    DEFAULT = 0\n"
        "class JSONStreamBackend:\n"
        "    def __init__(self, verbosity, filename, append=False):\n"
        "        self.made = (verbosity, filename, append)\n"
        "        self.logged = []\n"
        "    def log(self, timestamp, elapsedtime, step, data):\n"
        "        self.logged.append((step, data))\n"
        "    def flush(self):\n"
        "        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "dllogger", raising=False)
    backend: Any = build_json_backend(tmp_path / "log.jsonl")
    assert backend.made == (0, str(tmp_path / "log.jsonl"), True)
    log = RunLog(tmp_path, epochs=1, steps_per_epoch=1)
    log.finish({"best_AP": math.nan})
    assert log.backend.logged == [((), {"best_AP": None})]  # type: ignore[union-attr]


def test_without_dllogger_the_lines_are_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(build_json_backend(tmp_path / "log.jsonl"), JsonLines)


def test_durations_are_hours_minutes_seconds() -> None:
    assert [duration(s) for s in (0, 61.9, 3600 * 27 + 59)] == ["0:00:00", "0:01:01", "27:00:59"]
