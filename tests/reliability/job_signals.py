# SPDX-License-Identifier: Apache-2.0
"""Signals to the processes of a job, and what comes of each."""

import itertools
import signal
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.reliability.job import Orders
from tests.reliability.job_runs import INFINITE, Job, Server, digest, saved_step

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
TARGETS = ("rank 0", "rank 1", "agent", "group", "worker")
PHASES = ("step", "save", "validation")
Case = tuple[signal.Signals, str, str]
CASES: list[Case] = list(itertools.product(SIGNALS, TARGETS, PHASES))

SLOW = {
    "step": ((0.4, 0.0, 0.0), "step 5"),
    "save": ((0.0, 0.5, 0.0), "save 4"),
    "validation": ((0.0, 0.0, 0.3), "validation"),
}
"""Seconds that make a phase long enough to be hit, and its name."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a signal.

    Attributes:
        code: the agent's exit code; None where the job went on.
        status: ``status.json``.
        saved_after: seconds from the signal to the newest checkpoint; negative: none came.
        ended_after: seconds from the signal to the end of the agent.
        step: of the newest checkpoint.
        stderr: what the user sees.
        orphans: processes that lived 1 s after the end.
        digest: of the job that went on from there, empty where it was not tried.
    """

    code: int | None
    status: dict[str, object]
    saved_after: float
    ended_after: float
    step: int
    stderr: str
    orphans: dict[int, int]
    digest: str


def name_of(case: Case) -> str:
    """As in ``SIGTERM to rank 0 in a step``."""
    number, target, phase = case
    return f"{number.name} to {target} in a {phase}"


def run_cases(
    server: Server, cases: Iterable[Case], *, resume: Iterable[Case] = (), at_once: int = 4
) -> dict[Case, Outcome]:
    """The outcome of each case; those of ``resume`` are taken to their end."""
    resumed = set(resume)
    with ThreadPoolExecutor(at_once) as pool:
        runs = {case: pool.submit(run_case, server, case, case in resumed) for case in cases}
        return {case: run.result() for case, run in runs.items()}


def run_case(server: Server, case: Case, resume: bool) -> Outcome:
    """Start a job, send the signal in the right phase, see what comes of it."""
    number, target, phase = case
    slow, begin = SLOW[phase]
    orders = Orders(infinite=INFINITE, slow=slow)
    job = server.job(f"signal {len(server.jobs)} {name_of(case)}", orders)
    job.start("--resume", "auto")
    job.await_phase(begin)
    sent = job.send(number, target, last=phase == "validation")
    assert sent is not None, f"no {target} in {job.processes()}"
    if target == "worker" and number != signal.SIGKILL:
        job.await_phase("step 8")
        outcome = _outcome(job, sent, None)
        job.clear()
        job.wait()
        return outcome
    code = job.wait()
    outcome = _outcome(job, sent, code)
    if not resume:
        return outcome
    job.start("--resume", "auto")
    assert job.wait(120) == 0, job.stderr
    return Outcome(**{**vars(outcome), "digest": digest(job.run / "last.pt")})


def _outcome(job: Job, sent: float, code: int | None) -> Outcome:
    last = job.run / "last.pt"
    return Outcome(
        code=code,
        status=job.status,
        saved_after=last.stat().st_mtime - sent if last.exists() else -1.0,
        ended_after=job.end[1] - sent if job.end is not None else -1.0,
        step=saved_step(last) if last.exists() else 0,
        stderr=job.stderr,
        orphans={} if code is None else job.orphans(),
        digest="",
    )
