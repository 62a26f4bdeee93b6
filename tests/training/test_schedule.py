# SPDX-License-Identifier: Apache-2.0
import re
from typing import Any

import pytest
import torch

from effdet.settings import Schedule
from effdet.training.schedule import (
    NvidiaSchedule,
    RateSchedule,
    WarmupSchedule,
    build_schedule,
)
from tests import golden

KINDS: tuple[Schedule, ...] = ("cosine", "automl", "step", "polynomial", "constant")


def schedule(kind: Schedule = "cosine", warmup_steps: int = 1000, **changes: Any) -> RateSchedule:
    """100 epochs of 1000 steps at 0.08, from 0.008."""
    values: dict[str, Any] = {
        "lr": 0.08, "warmup_lr": 0.008, "warmup_epochs": warmup_steps / 1000, "epochs": 100,
        "steps_per_epoch": 1000, "global_batch": 64,
    }  # fmt: skip
    return build_schedule(kind=kind, **(values | changes))


def test_automl_rates_are_the_references() -> None:
    lines = golden.lines("cosine lr lr=.08 init=.008 warm=1000 total=100000 step")
    assert len(lines) == 9
    for line in lines:
        step, rate = re.split(r"\s+", line)
        # The reference computes in float32, which tells least where the cosine is flat.
        assert schedule("automl")(int(step)) == pytest.approx(float(rate), rel=1e-5, abs=1e-8)


def test_automl_drops_where_the_warm_up_ends_and_rises_at_the_very_end() -> None:
    rates = schedule("automl")
    assert rates(1000) < 0.08
    assert rates(100000) > rates(99000 + 500) > 0


def test_cosine_goes_from_the_full_rate_to_the_lowest() -> None:
    rates = schedule()
    assert rates(1000) == 0.08
    assert rates(50500) == pytest.approx(0.04)
    assert rates(100000) == pytest.approx(0.0, abs=1e-12)
    falling = [rates(step) for step in range(1000, 100001, 1000)]
    assert falling == sorted(falling, reverse=True)
    higher = schedule(min_lr=0.02)
    assert higher(1000) == pytest.approx(0.08)
    assert higher(50500) == pytest.approx(0.05)
    assert higher(100000) == pytest.approx(0.02)


def test_step_rates_fall_tenfold_at_epochs_200_and_250_of_300() -> None:
    rates = schedule("step", epochs=300, steps_per_epoch=7, warmup_epochs=1)
    assert [rates(step) for step in (7, 1399)] == [0.08, 0.08]
    assert [rates(step) for step in (1400, 1749)] == pytest.approx([0.008, 0.008])
    assert [rates(step) for step in (1750, 2099)] == pytest.approx([0.0008, 0.0008])


def test_polynomial_rates_are_a_power_of_what_is_left() -> None:
    rates = schedule("polynomial")
    assert rates(1000) == pytest.approx(0.08 * 0.99**0.9)
    assert rates(50000) == pytest.approx(0.08 * 0.5358867312681466)  # 0.5 ** 0.9
    assert rates(100000) == 0.0


def test_a_constant_rate_stays() -> None:
    rates = schedule("constant")
    assert {rates(step) for step in range(1000, 100000, 999)} == {0.08}


@pytest.mark.parametrize("kind", KINDS)
def test_the_warm_up_is_a_straight_line(kind: Schedule) -> None:
    rates = schedule(kind)
    assert rates(0) == 0.008
    assert rates(250) == pytest.approx(0.026)
    assert rates(500) == pytest.approx(0.044)


@pytest.mark.parametrize("kind", KINDS)
def test_without_warm_up_the_first_step_has_the_full_rate(kind: Schedule) -> None:
    assert schedule(kind, warmup_steps=0)(0) == 0.08


@pytest.mark.parametrize("kind", [*KINDS, "nvidia"])
def test_a_cool_down_is_added_to_the_run_at_the_lowest_rate(kind: Schedule) -> None:
    short = schedule(kind, epochs=10, steps_per_epoch=5, warmup_epochs=1)
    cooled = schedule(
        kind, epochs=10, steps_per_epoch=5, warmup_epochs=1, cooldown_epochs=2, global_batch=32,
        min_lr=0.006,
    )  # fmt: skip
    assert (short.total_steps, cooled.total_steps) == (50, 60)
    assert {cooled(step) for step in range(50, 60)} == {0.003}
    if kind not in ("cosine", "nvidia"):
        assert [2 * cooled(step) for step in range(50)] == [short(step) for step in range(50)]


def nvidia(**changes: Any) -> RateSchedule:
    """The recipe for eight A100: 300 epochs of 98 steps of 1200 images, and 10 of cool-down."""
    scale = 64 / 1200
    values: dict[str, Any] = {
        "lr": 1.63 * scale, "warmup_lr": 1e-4 * scale, "warmup_epochs": 50, "min_lr": 1e-5 * scale,
        "epochs": 300, "cooldown_epochs": 10, "steps_per_epoch": 98, "global_batch": 1200,
        "noise": (0.4, 0.9), "seed": 12711,
    }  # fmt: skip
    return build_schedule(kind="nvidia", **(values | changes))


def test_nvidia_rates_are_the_references() -> None:
    rates = nvidia()
    golden_rates = {
        0: 1e-4, 49: 1.597402, 50: 1.520812, 121: 1.46633, 122: 0.51189, 300: 1e-5, 309: 1e-5,
    }  # fmt: skip
    for epoch, rate in golden_rates.items():
        assert rates(98 * epoch) == pytest.approx(rate, rel=1e-5), epoch
        assert rates(98 * epoch + 97) == rates(98 * epoch)
    assert rates.total_steps == 310 * 98


def test_nvidia_noise_is_in_its_epochs_only_and_bounded() -> None:
    rates, calm = nvidia(), nvidia(noise=None)
    ratios = [rates(98 * epoch) / calm(98 * epoch) for epoch in range(310)]
    assert ratios[:120] == [1.0] * 120
    assert ratios[270:] == [1.0] * 40
    assert all(0 < abs(ratio - 1) < 0.67 for ratio in ratios[120:270])
    assert nvidia(seed=1)(98 * 121) != rates(98 * 121)


def test_nvidia_warms_up_half_a_run_at_most() -> None:
    rates = nvidia(epochs=10, noise=None)
    assert isinstance(rates, NvidiaSchedule)
    assert rates.warmup_epochs == 5


def test_the_rate_is_set_in_every_group() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [p]} for p in parameters], lr=1.0)
    assert schedule().apply(optimizer, 500) == pytest.approx(0.044)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.044, 0.044])


def built(**changes: Any) -> WarmupSchedule:
    values = {"warmup_epochs": 1.0, "epochs": 10, "steps_per_epoch": 7}
    rates = schedule(**(values | changes))
    assert isinstance(rates, WarmupSchedule)
    return rates


def test_rates_are_scaled_with_the_global_batch() -> None:
    assert built().lr == 0.08
    half = built(global_batch=32, min_lr=0.001)
    assert (half.lr, half.warmup_lr, half.min_lr) == (0.04, 0.004, 0.0005)


def test_epochs_become_steps_and_the_warm_up_half_a_run_at_most() -> None:
    assert (built().warmup_steps, built().total_steps) == (7, 70)
    assert built(warmup_epochs=0.5).warmup_steps == 4
    assert built(warmup_epochs=0).warmup_steps == 0
    assert built(epochs=1).warmup_steps == 3


@pytest.mark.parametrize("kind", [*KINDS, "nvidia"])
def test_a_run_of_one_step_has_a_rate(kind: Schedule) -> None:
    rates = schedule(kind, epochs=1, steps_per_epoch=1, warmup_epochs=0)
    assert rates(0) == 0.08
