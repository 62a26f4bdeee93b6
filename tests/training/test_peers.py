# SPDX-License-Identifier: Apache-2.0
"""Jobs of two processes under torchrun's agent in which one misbehaves."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from effdet.errors import PeerError
from effdet.training.peers import Peers
from tests.runs import ROOT, program

JOB = "tests/training/peers_job.py"
TIMEOUT = 4.0
TO_END = 10.0  # seconds that a job may take to end, beside the timeout
BATCHES = (
    ("raise", "bug", "exit", "kill", "good", "common"),
    ("sleep", "stop", "busy", "scoring", "slow", "alone"),
)


@dataclass(frozen=True)
class Job:
    """What a user sees of a job.

    Attributes:
        code: exit code of the launcher.
        lines: lines of stderr.
        errors: those that begin with the name of the program.
        seconds: from the fault to the end of the launcher.
        status: what the rank wrote for its status file.
    """

    code: int
    lines: list[str]
    errors: list[str]
    seconds: float
    status: dict[int, str]


def read(folder: Path) -> Job:
    code, ended = (folder / "ended").read_text().split()
    bad = folder / "bad"
    lines = (folder / "stderr").read_text().splitlines()
    return Job(
        code=int(code),
        lines=lines,
        errors=[line for line in lines if line.startswith("effdet: error: ")],
        seconds=float(ended) - float(bad.read_text()) if bad.exists() else 0.0,
        status={int(file.name[-1]): file.read_text() for file in folder.glob("status-?")},
    )


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """All faults, half of them at a time."""
    folder = tmp_path_factory.mktemp("jobs")
    for modes in BATCHES:
        program(JOB, ",".join(modes), str(TIMEOUT), folder, minutes=3)
    found = {mode: read(folder / mode) for modes in BATCHES for mode in modes}
    print({mode: round(job.seconds, 1) for mode, job in found.items()})
    return found


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("raise", "image 'a.jpg' is broken"),
        ("bug", "failed in step 5 (training): KeyError: 'a bug of ours'"),
        ("exit", "died, killed or ended without a word"),
        ("kill", "died, killed or ended without a word"),
        ("sleep", "has made no progress for"),
        ("busy", "has made no progress for"),
        ("stop", "(it is stopped), the others wait for it"),
    ],
)
def test_the_guilty_process_is_named_once_and_the_job_ends_in_time(
    jobs: dict[str, Job], mode: str, expected: str
) -> None:
    job = jobs[mode]
    assert job.code != 0
    assert job.seconds < TO_END + (TIMEOUT if mode in ("sleep", "busy", "stop") else 0)
    assert len(job.errors) == 1, job.errors
    assert expected in job.errors[0]
    assert "rank 0" not in job.errors[0]
    if mode != "raise":
        assert job.errors[0].startswith("effdet: error: rank 1 (pid ")
    # The main process knows it too, for the status file of the run, with the code of the cause.
    code = {"raise": 3, "bug": 1}.get(mode, 7)
    assert job.status[0].startswith(f"{code} rank 1 (pid ")


@pytest.mark.parametrize("mode", ["sleep", "busy"])
def test_a_process_that_hangs_shows_where(jobs: dict[str, Job], mode: str) -> None:
    lines = jobs[mode].lines
    assert sum("stands still; its main thread" in line for line in lines) == 1
    call = "time.sleep(FOREVER)" if mode == "sleep" else 'while mode == "busy":'
    place = next(i for i, line in enumerate(lines) if line.strip() == call)
    assert lines[place + 1].startswith("effdet: error: rank 1")
    assert jobs[mode].status[1] == jobs[mode].status[0]


def test_a_stopped_process_is_ended_too(jobs: dict[str, Job]) -> None:
    pid = int(jobs["stop"].errors[0].partition("(pid ")[2].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_main_process_is_named_when_the_others_wait_for_what_only_it_does(
    jobs: dict[str, Job],
) -> None:
    (error,) = jobs["scoring"].errors
    assert error.startswith("effdet: error: rank 0 (pid ")
    assert error.endswith("in step 5 (scoring), the others wait for it")


def test_a_process_that_moves_on_may_keep_the_others_waiting(jobs: dict[str, Job]) -> None:
    assert jobs["slow"].code == 0
    assert jobs["slow"].seconds > 1.3 * TIMEOUT
    assert jobs["slow"].errors == []


def test_no_process_is_named_where_all_hang_alike(jobs: dict[str, Job]) -> None:
    (error,) = jobs["alone"].errors
    assert error.startswith("effdet: error: none of the 2 processes has made progress for 4 s")
    assert jobs["alone"].seconds < TIMEOUT + TO_END


def test_an_error_of_all_processes_is_printed_once(jobs: dict[str, Job]) -> None:
    assert jobs["common"].errors == ["effdet: error: no such folder: data"]
    assert jobs["common"].code != 0


def test_a_good_job_ends_without_a_word(jobs: dict[str, Job]) -> None:
    assert (jobs["good"].code, jobs["good"].lines) == (0, [])


def test_torchrun_shows_who_left_early(tmp_path: Path) -> None:
    done = program(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", JOB, "leave",
        str(TIMEOUT), tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    text = "left early with exit code 0, in step 5 (training)"
    shown = [line for line in done.stderr.splitlines() if text in line]
    # Our line, and torchrun's summary.
    assert len(shown) == 2
    assert all("effdet: error: rank 1 (pid " in line for line in shown)


def test_a_single_process_that_stands_still_ends_with_its_stack(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, JOB, "alone", "1", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == PeerError.exit_code
    assert "    time.sleep(FOREVER)" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("effdet: error: no progress for 1 s in step 5 (scoring)")
    assert (tmp_path / "status-0").read_text() == f"7 {last.removeprefix('effdet: error: ')}"


def test_a_beat_costs_less_than_50_microseconds() -> None:
    with Peers(60) as watch:
        start = time.perf_counter()
        for step in range(10_000):
            watch.beat(step, "training")
        assert (time.perf_counter() - start) / 10_000 < 50e-6


def test_alone_errors_pass_through_and_the_thread_ends() -> None:
    error = RuntimeError("Connection closed by peer")
    watch = Peers(60)
    assert watch.blame(error) is None
    with pytest.raises(RuntimeError) as raised, watch:
        raise error
    assert raised.value is error
    assert "peers" not in {thread.name for thread in threading.enumerate()}
