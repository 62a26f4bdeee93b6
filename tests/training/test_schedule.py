# SPDX-License-Identifier: Apache-2.0
import re

import pytest
import torch

from effdet.config import Schedule
from effdet.training import CosineSchedule, build_schedule
from tests import golden


def schedule(kind: Schedule = "cosine", warmup_steps: int = 1000) -> CosineSchedule:
    return CosineSchedule(
        lr=0.08, warmup_lr=0.008, warmup_steps=warmup_steps, total_steps=100000, kind=kind
    )


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


def test_cosine_goes_from_the_full_rate_to_nothing() -> None:
    rates = schedule()
    assert rates(1000) == 0.08
    assert rates(50500) == pytest.approx(0.04)
    assert rates(100000) == pytest.approx(0.0, abs=1e-12)
    falling = [rates(step) for step in range(1000, 100001, 1000)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("kind", ["cosine", "automl"])
def test_the_warm_up_is_a_straight_line(kind: Schedule) -> None:
    rates = schedule(kind)
    assert rates(0) == 0.008
    assert rates(250) == pytest.approx(0.026)
    assert rates(500) == pytest.approx(0.044)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert schedule(warmup_steps=0)(0) == 0.08


def test_the_rate_is_set_in_every_group() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [p]} for p in parameters], lr=1.0)
    assert schedule().apply(optimizer, 500) == pytest.approx(0.044)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.044, 0.044])


def built(**changes: float) -> CosineSchedule:
    values = {
        "lr": 0.08, "warmup_lr": 0.008, "warmup_epochs": 1.0, "epochs": 10, "steps_per_epoch": 7,
        "global_batch": 64,
    }  # fmt: skip
    return build_schedule(**(values | changes))  # type: ignore[arg-type]


def test_rates_are_scaled_with_the_global_batch() -> None:
    assert built().lr == 0.08
    half = built(global_batch=32)
    assert (half.lr, half.warmup_lr) == (0.04, 0.004)


def test_epochs_become_steps_and_the_warm_up_half_a_run_at_most() -> None:
    assert (built().warmup_steps, built().total_steps) == (7, 70)
    assert built(warmup_epochs=0.5).warmup_steps == 4
    assert built(warmup_epochs=0).warmup_steps == 0
    assert built(epochs=1).warmup_steps == 3


def test_a_run_of_one_step_has_a_rate() -> None:
    assert built(epochs=1, steps_per_epoch=1)(0) == 0.08
