# SPDX-License-Identifier: Apache-2.0
"""Jobs of two processes under torchrun's agent in which one misbehaves."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from effdet.errors import DataError, PeerError
from effdet.training import peers
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
    # The main process knows it too, for the status file of the run.
    assert job.status[0].startswith("7 rank 1 (pid ")


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


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError("[pair.cc:545] Read error: Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("Connection reset by peer"), True),
        (RuntimeError("Timed out waiting 4000ms for recv operation to complete"), True),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, remote process exited"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (RuntimeError("DataLoader timed out after 300 seconds"), False),
        (ConnectionResetError("Connection reset by peer"), False),  # of a loader's worker
        (DataError("Connection reset by peer"), False),
    ],
)
def test_only_errors_of_collectives_are_about_other_processes(
    error: Exception, broken: bool
) -> None:
    assert peers._is_broken(error) is broken


def test_without_a_store_every_error_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peers.report("effdet: error: a")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert peers.report("effdet: error: a")


def peer(rank: int, **changes: Any) -> peers._Peer:
    """A process of another machine that waits in step 12."""
    post = {
        "number": 9, "pid": 100 + rank, "born": "1", "machine": f"m{rank}", "host": f"node{rank}",
        "step": 12, "phase": "training", "beats": 0, "age": 70.0, "waits": True,
    }  # fmt: skip
    known = {"silence": 0.0, "end": None, "state": None}
    known |= {name: changes.pop(name) for name in tuple(changes) if name in known}
    return peers._Peer(post=peers._Post(**(post | changes)), **known)


def judge(*others: peers._Peer, age: float = 70.0) -> tuple[str, list[int], list[int]] | None:
    """What rank 0, which waits, makes of the others."""
    watch = Peers(60.0)
    watch.world_size = 1 + len(others)
    return watch._judge(dict(enumerate([peer(0), *others])), age)


def test_a_process_that_is_busy_is_guilty_even_if_it_is_ahead() -> None:
    found = judge(peer(1), peer(2, waits=False, step=13))
    assert found == (
        "rank 2 (pid 102 on node2) has made no progress for 70 s in step 13 (training), the "
        "others wait for it",
        [2],
        [],
    )


def test_where_all_wait_the_one_behind_is_guilty() -> None:
    found = judge(peer(1), peer(2, step=11))
    assert found is not None
    assert found[1] == [2]


def test_nothing_is_judged_before_the_timeout_or_while_one_moves_on() -> None:
    assert judge(peer(1, waits=False), age=59) is None
    assert judge(peer(1, waits=False), peer(2, age=3.0)) is None


def test_a_process_of_another_machine_that_falls_silent_is_guilty() -> None:
    found = judge(peer(1, waits=False), peer(2, silence=3.0, age=0.5))
    assert found is not None
    assert "rank 2 (pid 102 on node2)" in found[0]
    assert "(it does not answer)" in found[0]
    assert found[1:] == ([2], [2])


def test_a_process_that_never_came_is_guilty() -> None:
    found = judge(peer(1), peers._Peer(post=None, silence=70.0, end=None, state=None))
    assert found == ("rank 2 has not started, the others wait for it", [2], [])


def test_the_cause_is_the_first_error_and_not_what_followed_from_it() -> None:
    found = judge(
        peer(1, end={"kind": "peer", "text": "rank 3 failed"}),
        peer(2, end={"kind": "left", "text": "with exit code 0"}),
        peer(3, end={"kind": "failed", "text": "no space left"}),
    )
    assert found is not None
    assert found[0] == "rank 3 (pid 103 on node3) failed in step 12 (training): no space left"


def test_four_of_many_guilty_processes_are_named() -> None:
    found = judge(*(peer(rank, waits=False) for rank in range(1, 7)))
    assert found is not None
    assert found[0].count("has made no progress") == 4
    assert found[0].endswith("2 more ranks neither, the others wait for them")
