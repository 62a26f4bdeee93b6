# SPDX-License-Identifier: Apache-2.0
"""Whole jobs of two processes that are killed go on to the same bits.

Batch norm is trained, stochastic depth and the weight average are on, gradients are scaled and
some not finite, two images are left over in each epoch, and checkpoints are written every 3 steps.
"""

import signal
import time

import pytest

from tests.reliability.job_kills import Kills, kill_jobs
from tests.reliability.job_runs import Job, Server, differing, digest, result

SEED = 20


def check(kills: Kills, count: int, seed: int) -> None:
    print(f"N = {kills.count} kills, seed {seed}: {kills}")
    assert kills.count == count
    assert kills.completed > 0
    assert not kills.not_exact
    assert not kills.orphans
    assert not kills.refused
    assert kills.slowest_end < 12


def test_jobs_killed_at_random_end_with_the_same_bits(server: Server) -> None:
    check(kill_jobs(server, 20, SEED), 20, SEED)


@pytest.mark.slow
def test_jobs_killed_200_times_end_with_the_same_bits(server: Server) -> None:
    check(kill_jobs(server, 200, SEED + 1, say=print), 200, SEED + 1)


def test_a_job_of_real_programs_does_what_a_forked_one_does(
    server: Server, left_alone: Job
) -> None:
    job = server.job("programs").start("--resume", "auto", forked=False)
    job.await_phase("step 8")
    job.send(signal.SIGKILL, "rank 0")
    assert job.wait() == 1
    assert not job.orphans()
    job.start("--resume", "auto", forked=False)
    assert job.wait() == 0, job.stderr
    assert digest(job.run / "last.pt") == digest(left_alone.run / "last.pt")


def test_torchrun_restarts_killed_ranks_until_the_job_is_through(
    server: Server, left_alone: Job
) -> None:
    job = server.job("elastic")
    job.start("--resume", "auto", launcher=("--max-restarts", "3"))
    for target, step in (("rank 0", 6), ("rank 1", 12), ("rank 0", 18)):
        job.await_phase(f"step {step}")
        job.send(signal.SIGKILL, target)
    assert job.wait(90) == 0, job.stderr
    assert not job.orphans()
    assert differing(result(job.run / "last.pt"), result(left_alone.run / "last.pt")) == []


def test_two_runs_on_one_folder_at_the_same_time(server: Server, left_alone: Job) -> None:
    first, second = server.job("first"), server.job("second")
    first.start("--resume", "auto")
    first.await_phase("step 4")
    first.send(signal.SIGSTOP, "group")  # else a slow machine may let it end before the second asks
    began = time.time()
    second.start("--resume", "auto", "--output", str(first.run), processes=0)
    assert second.wait() == 2
    lines = second.stderr.strip().splitlines()
    assert len(lines) == 1
    assert f"is in use by process {first.phase(0)[0]}@" in lines[0]
    assert time.time() - began < 10
    first.send(signal.SIGCONT, "group")
    assert first.wait() == 0, first.stderr
    assert digest(first.run / "last.pt") == digest(left_alone.run / "last.pt")
