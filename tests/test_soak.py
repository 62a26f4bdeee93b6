# SPDX-License-Identifier: Apache-2.0
"""The program that watches a long run, on a short one: what does not grow, and a leak is found."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runs import ROOT, program

sys.path.insert(0, str(ROOT / "benchmarks"))

from soak import LIMIT, Sample, grown, growth


def samples(number: int = 400, **slopes: float) -> list[Sample]:
    """Noise around 50 MB, whose neighbours are alike, and a line with the slopes a step."""
    draws = np.random.default_rng(0)
    noise = np.convolve(draws.normal(0, 20_000, number + 9), np.ones(10) / 10, "valid")
    still = Sample(step=0, own=50_000_000, workers=9_000_000, shared=0, open_files=40, files=9,
                   shm_files=0)  # fmt: skip
    found = []
    for k in range(number):
        step = 25 * (k + 1)
        line = {name: int(getattr(still, name) + step * slope) for name, slope in slopes.items()}
        sample = dataclasses.replace(still, step=step, **line)
        found.append(dataclasses.replace(sample, own=sample.own + int(noise[k])))
    return found


def test_the_slope_is_found_within_its_bound() -> None:
    for slope in (0.0, 300.0, -300.0, 5000.0):
        steps, values = zip(*((s.step, s.own) for s in samples(own=slope)), strict=True)
        line = growth(steps, values)
        assert line.slope == pytest.approx(slope, abs=10)
        assert line.slope < line.bound < line.slope + 20


def test_the_bound_holds_for_noise_whose_neighbours_are_alike() -> None:
    """In at most about one of twenty cases the true slope is above it."""
    draws, trials, above = np.random.default_rng(0), 400, 0
    steps = list(range(10, 10_010, 10))
    for _ in range(trials):
        noise = np.convolve(draws.normal(0, 1e5, len(steps) + 9), np.ones(10) / 10, "valid")
        above += growth(steps, [int(value) for value in noise]).bound < 0
    assert above / trials < 0.09
    print(f"N={trials}, seed=0")


def test_what_grows_is_named() -> None:
    assert grown(samples()) == []
    assert grown(samples(own=500)) == []
    for name in ("own", "workers", "shared"):
        assert any(f"memory ({name}) grows" in fault for fault in grown(samples(**{name: LIMIT})))
    assert grown(samples(own=600, workers=600)) != []  # together
    for name in ("open_files", "files", "shm_files"):
        (fault,) = grown(samples(**{name: 0.01}))
        assert fault.startswith(f"{name} grew from ")


SHORT = """
import json, sys
from pathlib import Path
sys.path[:0] = ["benchmarks"]
import torch
torch.set_num_threads(1)
from soak import grown, growth, soak
folder, steps, leak, limit = Path(sys.argv[1]), *map(int, sys.argv[2:])
samples = soak(folder, steps, 5, epoch=50, leak=leak)
slope = growth([s.step for s in samples], [s.own for s in samples]).slope
print(json.dumps([grown(samples, limit), slope]))
"""


def test_a_short_run_does_not_leak_and_a_leak_of_50_kb_a_step_is_found(tmp_path: Path) -> None:
    """A young process still grows by up to 25 kB a step, so the bound is near the leak."""
    # Each in a process of its own: memory that another run has freed would swallow the leak.
    leak, limit = "50000", "40000"
    without = program("-c", SHORT, tmp_path / "a", "300", "0", limit)
    planted = program("-c", SHORT, tmp_path / "b", "200", leak, limit)
    assert json.loads(without.stdout)[0] == []
    faults, slope = json.loads(planted.stdout)
    assert any("memory (own) grows" in fault for fault in faults)
    assert slope > 25_000
    print("N=300 steps, and 200 with the leak, seed=0")


@pytest.mark.slow
def test_ten_thousand_steps_keep_memory_and_files_as_they_are(tmp_path: Path) -> None:
    """As benchmarks/soak.py, whose result is kept; about ten minutes."""
    whole = SHORT.replace("steps, 5, epoch=50, leak=leak", "steps, 20, leak=leak")
    done = program("-c", whole, tmp_path / "run", "10000", "0", f"{LIMIT:.0f}", minutes=60)
    assert json.loads(done.stdout)[0] == []
    print("N=10,000 steps, seed=0")
