# SPDX-License-Identifier: Apache-2.0
"""Faults inside a job: it ends soon, says whose fault it is, and leaves a good checkpoint."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from effdet.training.replay import load_batches
from effdet.weights import load_checkpoint
from tests.reliability.job import Orders
from tests.reliability.job_runs import Job, Server, saved_step

TIMEOUT = 8
"""Seconds of ``--timeout``."""
FAULTS = {
    "raise": "RuntimeError: the fault that was ordered",
    "data": "an image.png that was ordered to be broken",
    "exit": "rank 1",
    "sleep": "rank 1",
    "worker killed": "was killed by SIGKILL at this image",
    "worker unpicklable": "UnpicklableError: the fault that was ordered",
    "worker hangs": "gave no batch for",
}
"""What rank 1 or its loader worker does, and what must be read on stderr."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job with a fault: exit code, seconds from the fault to the end, and the job."""

    code: int
    seconds: float
    job: Job


def run_fault(server: Server, fault: str) -> Ended:
    """A job with a fault in step 9, or at the 40th image of its worker."""
    worker = fault.startswith("worker")
    orders = Orders(fault=fault, fault_step=40 if worker else 9)
    job = server.job(f"fault {fault}", orders).start("--timeout", str(TIMEOUT))
    code = job.wait()
    assert job.end is not None
    assert (job.folder / "fault").exists(), f"ended before {fault!r}: {job.stderr}"
    began = (job.folder / "fault").stat().st_mtime
    return Ended(code=code, seconds=job.end[1] - began, job=job)


@pytest.fixture(scope="module")
def ended(server: Server) -> dict[str, Ended]:
    """All faults, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        runs = {fault: pool.submit(run_fault, server, fault) for fault in FAULTS}
        return {fault: run.result() for fault, run in runs.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_the_job_in_time_and_is_named(ended: dict[str, Ended], fault: str) -> None:
    run = ended[fault]
    job = run.job
    print(f"N = {len(FAULTS)} faults: {fault}: ended after {run.seconds:.1f} s\n{job.stderr}")
    assert run.code == 1
    assert run.seconds < TIMEOUT + 10
    assert FAULTS[fault] in job.stderr
    if fault.startswith("worker"):
        assert Path((job.folder / "fault").read_text()).name in job.stderr
    lines = [line for line in job.stderr.splitlines() if line.startswith("train.py: error: ")]
    assert len(lines) <= 1  # an error that is no mistake of the user's shows its traceback
    assert job.status["state"] == "failed"
    if fault.startswith("worker"):
        assert job.status["exit_code"] == 3
    assert saved_step(job.run / "last.pt") >= 4
    assert not job.orphans()


def test_a_run_without_finite_gradients_ends_with_its_batch(server: Server) -> None:
    first = 12
    orders = Orders(infinite=tuple(range(first, 1000)), scaler=False)
    job = server.job("diverged", orders)
    job.start("--epochs", "40", "--eval-every", "40", processes=2)
    assert job.wait(120) == 1
    assert (job.status["state"], job.status["exit_code"]) == ("failed", 6)
    step = saved_step(job.run / "last.pt")
    print(f"N = {step - first + 1} steps without finite gradients")
    assert step - first < 51
    checkpoint = load_checkpoint(job.run / "last.pt")
    assert checkpoint.ema is not None
    for state in (checkpoint.model, checkpoint.ema):
        assert all(torch.as_tensor(value).isfinite().all() for value in state.values())
    batches = load_batches(job.run / "diverged-rank0.pt")
    ids = [target.image_id for batch in batches for target in batch.targets]
    line = next(line for line in job.stderr.splitlines() if "diverged-rank0.pt" in line)
    assert "no finite gradients in 50 steps" in line
    assert ", ".join(f"{number}.png" for number in ids[:4]) in line
    assert not job.orphans()


def test_a_disk_that_is_full_for_a_while_costs_warnings(server: Server) -> None:
    job = server.job("full for a while", Orders(full=(2, 3))).start(processes=0)
    assert job.wait() == 0, job.stderr
    lines = job.stderr.splitlines()
    assert len(lines) == 2
    for line, left in zip(lines, (2, 1), strict=True):
        assert line.startswith("warning: cannot write run/last.pt: No space left on device (need")
        assert line.endswith(f"the run goes on, {left} more tries")
    assert job.status["state"] == "finished"
    assert saved_step(job.run / "last.pt") == len(range(4 * (50 // 4)))


def test_a_disk_that_stays_full_ends_the_run(server: Server) -> None:
    job = server.job("full", Orders(full=tuple(range(3, 100)))).start()
    assert job.wait() == 1
    lines = [line for line in job.stderr.splitlines() if line.startswith("train.py: error: ")]
    assert "train.py: error: 3 checkpoints in a row could not be written" in lines
    assert job.stderr.count("pt: No space left on device (need 0.") == 3
    assert 4 <= saved_step(job.run / "last.pt") <= 6
    assert job.status["state"] == "failed"
    assert not job.orphans()
