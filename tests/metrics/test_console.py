# SPDX-License-Identifier: Apache-2.0
import threading

import pytest

from effdet.metrics.console import (
    Bars,
    Lines,
    Position,
    build_console,
    describe,
    duration,
    share,
    size,
)
from tests.metrics.conftest import AP, STEP, terminal

HALF = Position(epoch=2, epochs=3, step=5, steps=10, left=3661.0)


def test_a_line_tells_everything_there_is_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().show(HALF, STEP | {"skipped": 2, "memory": 1.25e9})
    assert capsys.readouterr().out == (
        "epoch 2/3  step 5/10  loss 1.5000 (cls 0.5000 box 0.02000)  lr 8.00e-02  grad 3.00  "
        "12.0 img/s  data 1%  mem 1.2 GB  skipped 2  left 1:01:01\n"
    )


def test_skipped_steps_are_told_only_when_there_are_any() -> None:
    assert "skipped" not in describe({"skipped": 0})
    assert describe({"skipped": 1.0}) == {"skipped": "skipped 1"}


def test_values_that_are_not_finite_or_not_there_break_no_line() -> None:
    assert describe({"grad_norm": None, "memory": None}) == {"grad_norm": "grad nan"}
    assert describe({}) == {}


def test_figures_are_told_as_coco_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().end_epoch(1, 3, 61.0, STEP, {})
    Lines().end_epoch(2, 3, 61.0, STEP, AP | {"weights": "ema"})
    plain, validated = capsys.readouterr().out.splitlines()
    assert plain == "epoch 1/3  0:01:01  loss 1.5000 (cls 0.5000 box 0.02000)"
    assert validated == (
        "epoch 2/3  0:01:01  loss 1.5000 (cls 0.5000 box 0.02000)  "
        "AP 0.500  AP50 0.500  AP75 0.500  APs -  APm 0.500  APl 0.500  (ema)"
    )


def test_dlloggers_console_leaves_steps_and_epochs_to_dllogger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = build_console("dllogger")
    console.show(HALF, STEP)
    console.end_epoch(1, 3, 61.0, STEP, AP)
    assert capsys.readouterr().out == ""
    console.say("hello")
    assert capsys.readouterr().out == "hello\n"


def test_a_bar_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(build_console("auto")) is Lines
    with terminal():
        assert isinstance(build_console("auto"), Bars)
        assert type(build_console("lines")) is Lines
        monkeypatch.setenv("TERM", "dumb")
        assert type(build_console("auto")) is Lines
    with terminal(columns=0):
        assert type(build_console("auto")) is Lines


def test_the_bar_moves_with_each_step_and_shows_the_values() -> None:
    with terminal() as read:
        bar = Bars()
        bar.begin_epoch(2, 3, 10)
        assert "epoch 2/3 |  " in read()
        assert bar.bar is not None
        bar.bar.mininterval = 0.0
        bar.tick(4)
        shown = read()
        assert "epoch 2/3 |████" in shown
        assert "4/10" in shown
        bar.show(HALF, STEP | {"skipped": 2, "memory": 1.25e9})
        shown = read()
        assert "5/10, data 1%, mem 1.2 GB, skipped 2, left 1:01:01" in shown
        assert "loss 1.5000 (cls 0.5000 box 0.02000)  lr 8.00e-02  grad 3.00  12.0 img/s" in shown
        bar.state("validating")
        assert "validating" in read()
        bar.close()
        read()
        bar.tick(6)
        bar.show(HALF, STEP)
        assert read() == ""


def test_both_lines_fit_80_columns_with_large_numbers() -> None:
    large = {
        "loss": 12.5, "cls_loss": 10.5, "box_loss": 0.02, "lr": 0.08, "grad_norm": 99.99,
        "images_per_second": 1234.5, "data_share": 1.0, "memory": 80e9, "skipped": 123,
    }  # fmt: skip
    with terminal() as read:
        bar = Bars()
        bar.begin_epoch(100, 300, 1848)
        bar.show(Position(epoch=100, epochs=300, step=999, steps=1848, left=1e6), large)
        shown = read()
        bar.close()
    assert "999/1848, data 100%, mem 80.0 GB, skipped 123, left 277:46:40" in shown
    assert "1234.5 img/s" in shown


def test_texts_stand_above_the_bar() -> None:
    with terminal() as read:
        bar = Bars()
        bar.begin_epoch(1, 3, 10)
        read()
        bar.say("hello")
        bar.warn("careful")
        shown = read()
        bar.close()
    for text in ("hello\r\n", "careful\r\n"):
        before, found, shown = shown.partition(text)
        assert found
        assert before.endswith(("\r", "\x1b[A"))  # at the start of the bar's first line
        assert "epoch 1/3" in shown


def test_the_bar_starts_no_thread() -> None:
    before = threading.enumerate()  # tqdm's monitor may be one, of another test's bar
    with terminal():
        bar = Bars()
        bar.begin_epoch(1, 3, 10)
        bar.tick(1)
        assert threading.enumerate() == before
        bar.close()


def test_durations_are_hours_minutes_seconds() -> None:
    assert [duration(s) for s in (0, 61.9, 3600 * 27 + 59)] == ["0:00:00", "0:01:01", "27:00:59"]


def test_sizes_are_in_mb_or_gb_and_figures_have_three_digits() -> None:
    assert [size(5.36e8), size(1e9), size(80e9)] == ["536 MB", "1.0 GB", "80.0 GB"]
    assert [share(0.3456), share(None)] == ["0.346", "-"]
