# SPDX-License-Identifier: Apache-2.0
"""What each signal to each process of a job does, in a step, in a save and in a validation.

SIGTERM and SIGINT to a rank, the agent or all of them: a checkpoint within 5 s of the signal,
status.json says preempted (143) or interrupted (130), torchrun ends with its own code 1.
To a loader worker alone: nothing. SIGKILL: the job ends, and goes on from its last checkpoint; a
killed worker is named, with the image it was at.
"""

import signal

import pytest

from tests.reliability.job_runs import Job, Server, digest, saved_step
from tests.reliability.job_signals import CASES, Case, Outcome, name_of, run_cases

IN_TIME = 5.0
"""Seconds from a signal to the checkpoint on the disk."""
STATES = {signal.SIGTERM: ("preempted", 143), signal.SIGINT: ("interrupted", 130)}
TAKEN_TO_THE_END = {
    (signal.SIGTERM, "rank 1", "step"),
    (signal.SIGINT, "agent", "save"),
    (signal.SIGTERM, "group", "validation"),
    (signal.SIGKILL, "worker", "save"),
}


@pytest.fixture(scope="module")
def outcomes(server: Server) -> dict[Case, Outcome]:
    """All cases, several at a time: nearly all of it is starting and waiting."""
    return run_cases(server, CASES, resume=TAKEN_TO_THE_END)


def check(case: Case, outcome: Outcome) -> None:
    """That all came as documented."""
    number, target, _ = case
    assert not outcome.orphans
    if number == signal.SIGKILL:
        _check_killed(target, outcome)
    elif target == "worker":
        assert outcome.code is None
        assert "error" not in outcome.stderr
    else:
        assert outcome.code == 1
        state, code = STATES[number]
        assert (outcome.status["state"], outcome.status["exit_code"]) == (state, code)
        assert 0 <= outcome.saved_after < IN_TIME
        assert f"ended by a signal and saved at step {outcome.step}; go on" in outcome.stderr


def _check_killed(target: str, outcome: Outcome) -> None:
    assert outcome.code == (-signal.SIGKILL if target in ("agent", "group") else 1)
    assert outcome.ended_after < 10
    if target == "worker":
        assert "was killed by SIGKILL" in outcome.stderr
        assert ".png" in outcome.stderr
    elif target.startswith("rank"):
        assert f"local_rank: {target[-1]}" in outcome.stderr


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_signal_does_what_is_documented(
    outcomes: dict[Case, Outcome], left_alone: Job, case: Case
) -> None:
    outcome = outcomes[case]
    print(f"N = {len(CASES)} cases: {name_of(case)}: {outcome}")
    check(case, outcome)
    if case in TAKEN_TO_THE_END:
        assert outcome.digest == digest(left_alone.run / "last.pt")


@pytest.mark.slow
def test_after_any_signal_the_job_goes_on_to_the_same_bits(server: Server, left_alone: Job) -> None:
    interrupted = [case for case in CASES if case[0] == signal.SIGKILL or case[1] != "worker"]
    outcomes = run_cases(server, interrupted, resume=interrupted, at_once=3)
    print(f"N = {len(interrupted)} cases")
    for case, outcome in outcomes.items():
        check(case, outcome)
        assert outcome.digest == digest(left_alone.run / "last.pt"), name_of(case)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_torchrun_the_exit_code_tells(server: Server, number: signal.Signals) -> None:
    job = server.job(f"alone-{number.name}")
    job.start(processes=0)
    job.await_phase("step 4")
    job.send(number, "rank 0")
    state, code = STATES[number]
    assert job.wait() == code
    step = saved_step(job.run / "last.pt")
    assert job.stderr.splitlines() == [
        f"train.py: error: ended by a signal and saved at step {step}; go on with --resume run"
    ]
    assert (job.status["state"], job.status["exit_code"]) == (state, code)
    assert not job.orphans()
