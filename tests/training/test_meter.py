# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest
import torch

from effdet import distributed
from effdet.training import Meter

TAKEN, SKIPPED = torch.tensor(False), torch.tensor(True)


def clock_of(*moments: float) -> Callable[[], float]:
    """A clock that is looked at once for each of ``moments``."""
    return iter(moments).__next__


def add(meter: Meter, loss: float, skipped: torch.Tensor = TAKEN, waiting: float = 0.0) -> None:
    meter.add({"loss": torch.tensor(loss)}, skipped, images=4, waiting=waiting)


def test_means_are_over_steps_and_rates_over_time() -> None:
    meter = Meter(clock_of(0.0, 2.0))
    add(meter, 1.0, waiting=0.25)
    add(meter, 4.0, waiting=0.75)
    means = meter.means()
    assert means["loss"] == 2.5
    assert means["skipped"] == 0
    assert means["images_per_second"] == 4
    assert means["data_share"] == 0.5


def test_a_skipped_step_counts_for_nothing_but_itself() -> None:
    meter = Meter()
    add(meter, 1.0)
    add(meter, float("nan"), SKIPPED)
    add(meter, float("inf"), SKIPPED)
    add(meter, 2.0)
    assert meter.means()["loss"] == 1.5
    assert meter.means()["skipped"] == 2


def test_where_all_steps_were_skipped_there_is_no_mean() -> None:
    meter = Meter()
    add(meter, 3.0, SKIPPED)
    means = meter.means()
    assert means["loss"] != means["loss"]
    assert means["skipped"] == 1


def test_a_report_is_about_the_steps_since_the_last() -> None:
    meter = Meter()
    add(meter, 1.0)
    assert meter.report()["loss"] == 1.0
    add(meter, 2.0)
    add(meter, 4.0)
    assert meter.report()["loss"] == 3.0
    assert meter.report() == {}
    assert meter.means()["loss"] == pytest.approx(7 / 3)


def test_nothing_is_said_before_the_first_step() -> None:
    assert Meter().means() == {}
    assert Meter().report() == {}


def test_all_processes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    others = torch.tensor([3.0, 1.0])  # the other's loss and step
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda value: value + others)
    meter = Meter(clock_of(0.0, 1.0))
    add(meter, 1.0)
    means = meter.means()
    assert (means["loss"], means["skipped"], means["images_per_second"]) == (2.0, 0, 8.0)


def test_a_meter_goes_on_where_it_was_saved() -> None:
    whole, first, second = Meter(), Meter(), Meter()
    for meter in (whole, first):
        add(meter, 0.1, waiting=0.5)
        meter.report()
        add(meter, 0.2)
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    for meter in (whole, second):
        add(meter, 0.7)
    assert second.means()["loss"] == whole.means()["loss"]
    assert second.report()["loss"] == whole.report()["loss"]
    assert (second.steps, second.images, second.waiting) == (3, 12, 0.5)
