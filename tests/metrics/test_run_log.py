# SPDX-License-Identifier: Apache-2.0
import csv
import errno
import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effdet.errors import DataError, DivergedError, SignalError
from effdet.metrics import FIGURES, RunLog, run_log
from effdet.metrics.dllogger import METADATA
from effdet.metrics.line_file import LineFile
from tests.metrics.conftest import AP, STEP, records, status, terminal


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path, epochs=2, steps_per_epoch=10)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_record_is_in_the_log(log: RunLog, tmp_path: Path) -> None:
    log.parameters({"lr": 0.08, "image_size": (64, 96)})
    log.begin_epoch(1)
    log.step(5, STEP)
    log.end_epoch({"loss": 1.0}, AP)
    log.warn("careful")
    log.finish({"best_AP": 0.5})
    found = records(tmp_path)
    assert [record["step"] for record in found] == ["PARAMETER", [1, 5], [1], "WARNING", []]
    for record in found:
        assert list(record) == ["timestamp", "datetime", "elapsedtime", "type", "step", "data"]
        assert float(record["timestamp"]) > 1.6e9
        assert float(record["elapsedtime"]) >= 0
    assert found[0]["data"] == {"lr": 0.08, "image_size": [64, 96]}
    assert found[1]["data"].pop("memory") > 0
    assert found[1]["data"] == STEP
    assert found[2]["data"].pop("memory") > 0
    assert found[2]["data"].pop("seconds") >= 0
    assert found[2]["data"] == {"loss": 1.0, **AP}
    assert found[3]["data"] == {"message": "careful"}


def test_units_and_formats_stand_before_the_first_record(log: RunLog, tmp_path: Path) -> None:
    log.parameters({})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [('"METADATA"' in line) for line in lines] == [True] * len(METADATA) + [False]
    found = {record["metric"]: record["metadata"] for record in records(tmp_path, "METADATA")}
    assert found == METADATA


def test_values_of_other_libraries_become_plain_ones(log: RunLog, tmp_path: Path) -> None:
    log.begin_epoch(1)
    log.step(1, STEP | {"loss": torch.tensor(1.5), "lr": np.float32(0.5), "grad_norm": math.inf})
    data = records(tmp_path)[0]["data"]
    assert (data["loss"], data["lr"], data["grad_norm"]) == (1.5, 0.5, None)
    log.finish({"best_AP": -math.inf})
    assert status(tmp_path)["best_AP"] is None


def test_a_log_is_continued_not_replaced(tmp_path: Path) -> None:
    for number in (1, 2):
        RunLog(tmp_path, epochs=2, steps_per_epoch=1).parameters({"run": number})
    assert [record["data"]["run"] for record in records(tmp_path)] == [1, 2]


def test_the_package_writes_the_log_where_it_is_installed(
    tmp_path: Path, dllogger: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        log = RunLog(tmp_path, epochs=1, steps_per_epoch=1, console="dllogger")
        log.finish({"best_AP": math.nan, "images_per_second": 12.0})
        assert isinstance(log._open_loggers["log.jsonl"].logger, dllogger.Logger)  # type: ignore[attr-defined]
    assert [record["data"]["best_AP"] for record in records(tmp_path)] == [None, None]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(" - () best_AP : None  images_per_second : 12.00 img/s")


def test_dlloggers_console_has_its_lines_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, epochs=1, steps_per_epoch=10, console="dllogger")
    log.begin_epoch(1)
    log.step(10, STEP)
    log.end_epoch({"loss": 1.0}, AP)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("DLL 20")
    assert " - (1, 10) loss : 1.5000  cls_loss : 0.5000  box_loss : 0.02000  lr : " in first
    assert "images_per_second : 12.00 img/s data_share : 0.010  skipped : 0 steps" in first
    assert " - (1,) loss : 1.0000  " in second


def test_the_table_has_a_line_an_epoch_and_all_figures(log: RunLog, tmp_path: Path) -> None:
    for number, figures in ((1, {}), (2, AP | {"weights": "raw", "AP_raw": 0.5})):
        log.begin_epoch(number)
        log.end_epoch({"loss": np.float32(1.0 / number)}, figures)
    rows = table(tmp_path)
    extra = ("memory", "seconds")
    assert list(rows[0]) == [
        "epoch", "steps", "loss", *extra, *FIGURES, "weights", "AP_ema", "AP_raw",
    ]  # fmt: skip
    assert [row["loss"] for row in rows] == ["1.0", "0.5"]
    assert [row["steps"] for row in rows] == ["10", "10"]
    assert [row["AP"] for row in rows] == ["", "0.5"]
    assert (rows[1]["APs"], rows[1]["weights"], rows[1]["AP_ema"]) == ("", "raw", "")
    assert json.loads(json.dumps(log.history)) == log.history
    assert [row["epoch"] for row in log.history] == [1, 2]


def test_a_resumed_run_has_every_epoch_once_in_its_table(tmp_path: Path) -> None:
    first = RunLog(tmp_path, epochs=3, steps_per_epoch=10)
    for epoch in (1, 2):
        first.begin_epoch(epoch)
        saved = list(first.history)  # killed before the checkpoint of the second epoch
        first.end_epoch({"loss": 1.0 / epoch}, AP)
    again = RunLog(tmp_path, epochs=3, steps_per_epoch=10)
    again.resume_at(10, saved)
    assert [row["epoch"] for row in table(tmp_path)] == ["1"]
    for epoch in (2, 3):
        again.begin_epoch(epoch)
        again.end_epoch({"loss": 1.0 / epoch}, AP)
    assert [row["epoch"] for row in table(tmp_path)] == ["1", "2", "3"]
    assert [row["epoch"] for row in again.history] == [1, 2, 3]
    assert [row["epoch"] for row in saved] == [1]


def test_a_run_resumed_in_its_first_epoch_has_no_table_yet(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch\n1\n")
    RunLog(tmp_path, epochs=3, steps_per_epoch=10).resume_at(5, [])
    assert not (tmp_path / "metrics.csv").exists()


def test_each_start_is_in_the_environment_file(tmp_path: Path) -> None:
    for world_size in (1, 2):
        log = RunLog(tmp_path, epochs=2, steps_per_epoch=10)
        log.environment(torch.device("cpu"), world_size)
    starts = json.loads((tmp_path / "environment.json").read_text())
    assert [start["world_size"] for start in starts] == [1, 2]


def test_the_status_tells_programs_where_the_run_is(log: RunLog, tmp_path: Path) -> None:
    log.begin_epoch(2)
    assert (status(tmp_path)["state"], status(tmp_path)["step"]) == ("training", 0)
    log.tick(10)
    log.status("validating")
    assert (status(tmp_path)["state"], status(tmp_path)["epoch"]) == ("validating", 2)
    log.finish({"best_AP": 0.25})
    assert status(tmp_path) == {
        "state": "finished", "time": pytest.approx(time.time(), abs=60), "epoch": 2, "epochs": 2,
        "step": 10, "steps": 10, "best_AP": 0.25,
    }  # fmt: skip
    assert not (tmp_path / "status.json.tmp").exists()


def test_the_status_is_renewed_now_and_then_while_training(
    log: RunLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.begin_epoch(1)
    log.step(2, STEP)
    assert status(tmp_path)["step"] == 0
    monkeypatch.setattr(run_log, "HEARTBEAT", 0.0)
    log.step(4, STEP)
    assert (status(tmp_path)["state"], status(tmp_path)["step"]) == ("training", 4)


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (DataError("no\nimages"), "failed", 3),
        (DivergedError("loss"), "failed", 6),
        (OSError("disk full"), "failed", 1),
        (SystemExit(9), "failed", 9),
        (SystemExit("why"), "failed", 1),
        (KeyboardInterrupt("x"), "interrupted", 130),
        (SignalError(signal.SIGINT, "saved"), "interrupted", 130),
        (SignalError(signal.SIGTERM, "saved"), "preempted", 143),
    ],
)
def test_a_run_that_ends_before_its_time_leaves_word(
    log: RunLog, tmp_path: Path, error: BaseException, state: str, code: int
) -> None:
    log.begin_epoch(1)
    with pytest.raises(type(error)), log:
        raise error
    found = status(tmp_path)
    assert (found["state"], found["epoch"], found["exit_code"]) == (state, 1, code)
    assert found["error"] == f"{type(error).__name__}: {' '.join(str(error).split())}"


def test_a_run_that_ends_in_time_is_not_failed(log: RunLog, tmp_path: Path) -> None:
    with log:
        log.finish({})
    assert status(tmp_path)["state"] == "finished"


def test_a_line_on_the_console_tells_the_time_left(
    log: RunLog, capsys: pytest.CaptureFixture[str]
) -> None:
    log.resume_at(10, [])
    log.begin_epoch(2)
    assert log._start is not None
    log._start -= 50  # five steps since the resume, ten seconds each: five are left
    log.step(5, STEP)
    line = capsys.readouterr().out
    assert line.startswith("epoch 2/2  step 5/10  loss 1.5000 (cls 0.5000 box 0.02000)")
    assert "  mem " in line
    assert line.rstrip().endswith("left 0:00:50")


def test_a_warning_goes_to_standard_error(log: RunLog, capsys: pytest.CaptureFixture[str]) -> None:
    log.warn("careful")
    assert capsys.readouterr() == ("", "warning: careful\n")


def test_a_tick_reads_neither_values_nor_memory_and_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a tick must not wait for the device or a disk")

    with terminal() as read:
        log = RunLog(tmp_path, epochs=1, steps_per_epoch=1000)
        log.begin_epoch(1)
        log.step(1, STEP)
        for name in ("plain_values", "peak_memory", "replace_text", "write_table"):
            monkeypatch.setattr(run_log, name, forbidden)
        monkeypatch.setattr(LineFile, "append", forbidden)
        for step in range(2, 500):
            log.tick(step)
            read() if step == 2 else None
        time.sleep(0.11)
        log.tick(500)
        assert "500/1000" in read()
        assert log.console is not None
        log.console.close()


def test_other_processes_write_and_print_nothing_but_know_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    log = RunLog(None, epochs=1, steps_per_epoch=1)
    log.environment(torch.device("cpu"), 2)
    log.parameters({"lr": 1})
    log.resume_at(0, [])
    log.say("hello")
    log.warn("careful")
    log.begin_epoch(1)
    log.tick(1)
    log.step(1, STEP)
    log.end_epoch(STEP, AP)
    log.finish({})
    with pytest.raises(DataError), log:
        raise DataError("x")
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert [row["epoch"] for row in log.history] == [1]


def test_a_disk_that_is_full_for_a_while_ends_no_training(
    log: RunLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log.parameters({"lr": 1})
    with monkeypatch.context() as patch:
        patch.setattr(LineFile, "append", full)
        patch.setattr(run_log, "replace_text", full)
        patch.setattr("effdet.metrics.table.replace_text", full)
        log.begin_epoch(1)
        log.step(5, STEP)
        log.step(10, STEP)
        log.end_epoch({"loss": 1.0}, AP)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    for name, error in zip(("status.json", "log.jsonl", "metrics.csv"), errors, strict=True):
        assert error.startswith(f"warning: {name} cannot be written")
        assert "No space left" in error
        assert error.endswith("the training goes on")
    log.begin_epoch(2)
    log.end_epoch({"loss": 0.5}, AP)
    log.finish({})
    assert [row["loss"] for row in table(tmp_path)] == ["1.0", "0.5"]
    assert [record["step"] for record in records(tmp_path)] == ["PARAMETER", [2], []]
    assert status(tmp_path)["lost_records"] == log.lost == 5


def test_a_run_shows_its_bar_on_a_terminal(tmp_path: Path) -> None:
    with terminal() as read, RunLog(tmp_path, epochs=2, steps_per_epoch=10) as log:
        log.begin_epoch(1)
        log.tick(1)
        log.step(5, STEP)
        log.warn("careful")
        log.status("validating")
        log.end_epoch(STEP, AP | {"weights": "raw"})
        shown = read()
    assert "epoch 1/2 |" in shown
    assert "5/10, data 1%, mem " in shown
    assert "lr 8.00e-02  grad 3.00  12.0 img/s" in shown
    assert "warning: careful\r\n" in shown
    assert "validating" in shown
    assert shown.rstrip().endswith("APl 0.500  (raw)")
