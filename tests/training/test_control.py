# SPDX-License-Identifier: Apache-2.0
import os
import signal

import pytest

from effdet.training import Control, Orders


class Clock:
    """Seconds that go by when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_reason_there_is_nothing_to_do() -> None:
    with Control(save_minutes=1) as control:
        assert control.poll() == Orders(signal=0, save=False, failed=False)


def test_a_checkpoint_is_due_when_the_minutes_are_over() -> None:
    clock = Clock()
    control = Control(save_minutes=2, clock=clock)
    found = []
    for _ in range(10):
        clock.now += 30
        found.append(control.poll().save)
    assert found == [False, False, False, True] * 2 + [False, False]


def test_without_minutes_no_checkpoint_is_due() -> None:
    clock = Clock()
    control = Control(save_minutes=0, clock=clock)
    clock.now = 1e9
    assert not control.poll().save


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_and_the_first_one_counts(number: signal.Signals) -> None:
    other = signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM
    # A shell may start what runs in the background with some of them ignored.
    mine = [lambda *_: None, lambda *_: None]
    before = [signal.signal(*pair) for pair in zip((number, other), mine, strict=True)]
    with Control(save_minutes=0) as control:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), other)
        assert control.poll().signal == number
        assert control.poll().signal == number
    after = [signal.signal(*pair) for pair in zip((number, other), before, strict=True)]
    assert after == mine


def test_that_saving_failed_is_told_to_all() -> None:
    control = Control(save_minutes=0)
    control.failed = True
    assert control.poll().failed


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Control(save_minutes=0) as control:
            os.kill(os.getpid(), signal.SIGHUP)
            assert control.poll().signal == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
