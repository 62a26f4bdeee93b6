# SPDX-License-Identifier: Apache-2.0
"""Whole jobs, killed at random until they are through, against the one that was left alone."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.reliability.job_runs import Job, Server, differing, digest, result

TARGETS = ("rank 0", "rank 1", "agent", "group", "worker")


@dataclass
class Kills:
    """What came of it.

    Attributes:
        targets: kills of each.
        phases: what rank 0 did when it was hit.
        completed: jobs that came to their end.
        not_exact: of these, those that ended in other bits, with the entries that differ.
        orphans: kills after which a process lived 1 s after the agent, with the processes.
        refused: starts that failed without being killed, with what they said.
        slowest_end: longest time from a kill to the end of the agent, in seconds.
        under_way: kills that are being made and not counted yet.
    """

    targets: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    not_exact: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    slowest_end: float = 0.0
    under_way: int = 0

    @property
    def count(self) -> int:
        """Kills that hit."""
        return sum(self.targets.values())


def kill_jobs(
    server: Server,
    kills: int,
    seed: int,
    *,
    at_once: int = 2,
    say: Callable[[str], None] = lambda text: None,
) -> Kills:
    """Kill jobs at random moments until ``kills`` have hit and all jobs are through.

    Args:
        server: starts the jobs.
        kills: to be made.
        seed: of targets and moments; when the jobs get there is up to the machine.
        at_once: jobs that run at the same time.
        say: takes a line about each kill.
    """
    reference = server.job(f"left-alone-{seed}").start("--resume", "auto")
    begin = time.monotonic()
    assert reference.wait(120) == 0, reference.stderr
    seconds = time.monotonic() - begin
    wanted, done, lock = result(reference.run / "last.pt"), Kills(), threading.Lock()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            while done.count < kills and not failures:
                with lock:
                    name = f"killed-{seed}-{len(server.jobs)}"
                    job = server.job(name)
                run = _Run(job, random.Random(f"{seed} {name}"), done, lock, kills, say)
                run.to_the_end(1.5 * seconds)
                with lock:
                    done.completed += 1
                    if digest(job.run / "last.pt") != digest(reference.run / "last.pt"):
                        names = differing(wanted, result(job.run / "last.pt"))
                        done.not_exact.append(f"{name}: {', '.join(names[:5])}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return done


@dataclass
class _Run:
    """One job, killed and started again until it is through."""

    job: Job
    random: random.Random
    done: Kills
    lock: threading.Lock
    kills: int
    say: Callable[[str], None]

    def to_the_end(self, seconds: float) -> None:
        for _ in range(50):
            self.job.start("--resume", "auto")
            delay = self.random.uniform(0, seconds)
            target = self.random.choice(TARGETS)
            deadline = time.monotonic() + delay
            while time.monotonic() < deadline and self.job.end is None:
                time.sleep(0.01)
            killed = self.job.end is None and self._kill_if_wanted(target)
            code = self.job.wait(120)
            self._see_orphans(target)
            if code == 0:
                return
            if not killed:
                with self.lock:
                    self.done.refused.append(f"{self.job.folder.name}: {self.job.stderr}")
        raise AssertionError(f"{self.job.folder.name} does not come to its end: {self.job.stderr}")

    def _kill_if_wanted(self, target: str) -> bool:
        """Kill unless all kills are made, or under way by another thread."""
        with self.lock:
            if self.done.count + self.done.under_way >= self.kills:
                return False
            self.done.under_way += 1
        try:
            return self._kill(target)
        finally:
            with self.lock:
                self.done.under_way -= 1

    def _kill(self, target: str) -> bool:
        before = self.job.phase(0)[1]
        moment = self.job.send(signal.SIGKILL, target)
        if moment is None:  # that process is not there yet
            before, target = self.job.phase(0)[1], "agent"
            moment = self.job.send(signal.SIGKILL, target)
        if moment is None:
            return False
        phase = before.rstrip(" 0123456789") or "launch"
        self.job.wait(60)
        assert self.job.end is not None
        took = self.job.end[1] - moment
        with self.lock:
            self.done.targets[target] += 1
            self.done.phases[phase] += 1
            self.done.slowest_end = max(self.done.slowest_end, took)
            self.say(
                f"{self.done.count} {self.job.folder.name} {target} in {before or 'launch'}, "
                f"ended after {took:.1f} s with {self.job.end[0]}"
            )
        return True

    def _see_orphans(self, target: str) -> None:
        orphans: Any = self.job.orphans()
        if orphans:
            with self.lock:
                self.done.orphans.append(f"{self.job.folder.name} {target}: {orphans}")
            self.job.clear()
