# SPDX-License-Identifier: Apache-2.0
"""The watch over a group: where a process dies, leaves early or hangs, all end and say why.

A collective that fails names the process that waited, not the one that is gone, and a hang ends
at the group's timeout without a name. So a thread of every process posts where its main thread is
(posts.py) in the store of the launcher (board.py). When the main thread stands still, or a
collective breaks, the posts of all tell who is the cause (blame.py).

A main thread that waits inside NCCL or gloo runs no Python, so it is the thread that prints and
ends the process.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import FrameType, TracebackType

from effdet import distributed
from effdet.errors import EffdetError, PeerError, printable_lines
from effdet.training.blame import (
    BLAME_SECONDS,
    GRACE,
    NAMED,
    Verdict,
    describe_error,
    describe_hang,
    exit_code_of_cause,
    find_cause,
    find_stuck,
    is_broken_collective,
    judge,
)
from effdet.training.board import STORE_SECONDS, Board
from effdet.training.launcher import FIRST_SECONDS, is_first, store_host, tell_launcher
from effdet.training.posts import Posts, waits_for_others

INTERVAL = 0.5
"""Seconds between the posts of a process."""
CONNECT_SECONDS = 30.0
"""How long a process waits for the store at its start."""
END_SECONDS = 6.0
"""From the verdict to the end of this process, whatever hangs."""


class Peers:
    """Watches over the processes of a group; every process enters one and calls :meth:`beat`.

    When no process makes progress for ``timeout`` seconds, or one is gone for which the others
    wait, one line on stderr names the guilty rank, that rank prints where its main thread is, and
    every process ends with exit code 7. Processes are left alone as long as any of them moves on.

    An exception that leaves the block is told to the others; a broken collective becomes a
    :class:`~effdet.errors.PeerError` that names the cause.

    Without a group, the same watch is kept over this process alone.
    """

    def __init__(
        self,
        timeout: float,
        *,
        on_end: Callable[[str, int], None] | None = None,
        program: str = "effdet",
    ) -> None:
        """Nothing happens before the block is entered.

        Args:
            timeout: seconds without a beat after which a run is given up.
            on_end: called with the error and the exit code before the watch ends this process, in
                a thread and for at most a few seconds; for the run's status file.
            program: what the printed line begins with.
        """
        self.timeout, self.program, self._on_end = timeout, program, on_end
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self._stands_after = min(timeout / 2, GRACE / 2)
        self._board = Board()
        self._posts = Posts(self._board, self.rank, self.world_size)
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._stopped = threading.Event()
        self._ending = threading.Event()
        self._last = (time.monotonic(), 0, "start", 0)  # when, step, phase, beats in it

    def __enter__(self) -> "Peers":
        self._last = (time.monotonic(), 0, "start", 0)
        if self.world_size > 1:
            self._board.connect(CONNECT_SECONDS)
        self._post()
        # A thread inside the store's C++ while the interpreter ends would abort the process.
        atexit.register(self._stop)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._say_end("left", "with exit code 0")
            elif isinstance(error, SystemExit):
                self._say_end("left", f"with exit code {error.code or 0}")
            elif (found := self.blame(error)) is not None:
                raise found from error
            elif isinstance(error, PeerError):
                self._say_end("peer", str(error))
            else:
                code = getattr(error, "exit_code", EffdetError.exit_code)
                self._say_end("failed", describe_error(error), code)
        finally:
            self._stop()

    def beat(self, step: int, phase: str) -> None:
        """Say that the main thread moves on; no lock, no input or output.

        Args:
            step: training steps done.
            phase: what comes now, such as ``training``, as the error shall name it.
        """
        _, last_step, _, beats = self._last
        self._last = (time.monotonic(), step, phase, beats + 1 if step == last_step else 0)

    def blame(self, error: BaseException) -> PeerError | None:
        """The cause of a collective that broke, found within a few seconds.

        Returns:
            An error that names the rank that is gone, where it was, and what it said; one that
            names no rank where all still run; None for an error that is not about a connection.
        """
        if self.world_size == 1 or not is_broken_collective(error):
            return None
        self._beside_the_end()
        deadline = time.monotonic() + BLAME_SECONDS
        text = self._await_cause(deadline)
        if text is None and self._board.gone:
            text = f"{store_host()} is gone: {describe_error(error)}"
        elif text is None:
            text = "the connection between the processes broke, all still run: "
            text += describe_error(error)
        self._let_the_failed_end(deadline)
        self._say_end("peer", text)
        found = PeerError(text)
        # The run ended by what the other process met: a bad image is one on any rank.
        found.exit_code = exit_code_of_cause(self._posts.look(), self.rank)
        return found

    def _await_cause(self, deadline: float) -> str | None:
        """What the others say or show until ``deadline``, None where that is nothing."""
        while not self._board.gone:
            peers = self._posts.look()
            verdict = self._board.get("verdict")
            text = find_cause(peers, self.rank) if verdict is None else str(verdict["text"])
            if text is not None:
                return text
            if time.monotonic() > deadline:
                stuck = find_stuck(peers, self.rank)
                return describe_hang(peers, stuck) if stuck else None
            self._beside_the_end()
            time.sleep(0.1)
        return None

    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL):
            try:
                self._watch_once()
            except Exception:  # a watch that ends unseen would be worse than one that stumbles
                self._print(traceback.format_exc())

    def _watch_once(self) -> None:
        self._post()
        age = self._age()
        if age < self._stands_after:
            self._posts.forget()
        elif self._board.gone:
            if age > self.timeout:
                self._end_alone(age)
        else:
            self._look_around(age)

    def _look_around(self, age: float) -> None:
        """End this process where all have come to an end, or one is gone that it waits for."""
        content = self._board.get("verdict")
        if content is None:
            verdict = judge(
                self._posts.look(),
                by=self.rank,
                age=age,
                waits=self._waits(),
                timeout=self.timeout,
            )
            if verdict is None:
                return
            content = self._board.put_first("verdict", {**asdict(verdict), "by": self.rank})
        if content is not None:
            by = content.pop("by")
            self._end_together(Verdict(**content), by)

    def _end_alone(self, age: float) -> None:
        _, step, phase, _ = self._last
        text = f"no progress for {age:.0f} s in step {step} ({phase})"
        if self.world_size > 1:
            text = f"rank {self.rank}: {text}, and the store of the processes cannot be reached"
        self._begin_end()
        self._print_stack()
        self._print(f"{self.program}: error: {text}")
        self._leave(text)

    def _end_together(self, verdict: Verdict, by: int) -> None:
        """Stack of the guilty, one line by the rank that found it, then the end of all."""
        self._begin_end()
        shown = verdict.guilty[:NAMED]
        if self.rank in shown:
            self._print_stack()
            self._board.put(f"stack/{self.rank}", True)
        if by == self.rank:
            awaited = [rank for rank in shown if rank not in verdict.silent]
            self._board.wait(1.5, lambda: all(self._board.get(f"stack/{rank}") for rank in awaited))
            if is_first(self._board):
                self._print(f"{self.program}: error: {verdict.text}")
            self._board.put("said", True)
        else:
            self._board.wait(2.5, lambda: self._board.get("said") is not None)
        self._leave(verdict.text, verdict.guilty, verdict.silent, verdict.code)

    def _begin_end(self) -> None:
        self._ending.set()
        threading.Thread(target=_exit_after, args=(END_SECONDS,), daemon=True).start()

    def _leave(
        self,
        text: str,
        guilty: Sequence[int] = (),
        kill: Sequence[int] = (),
        code: int = PeerError.exit_code,
    ) -> None:
        """Write what the caller wants to write, end those that cannot do it, end this process."""
        if self._on_end is not None:
            writer = threading.Thread(target=self._on_end, args=(text, code), daemon=True)
            writer.start()
            writer.join(2.0)
        tell_launcher(f"{self.program}: error: {text}")
        for rank in kill:
            self._kill(rank)
        if self.rank not in guilty:
            time.sleep(FIRST_SECONDS)  # torchrun names the first that ends
        os._exit(code)

    def _kill(self, rank: int) -> None:
        """End a process of this machine that a launcher would wait for in vain."""
        peer = self._posts.look().get(rank)
        if peer is not None and peer.post is not None and peer.state:
            with contextlib.suppress(OSError):
                os.kill(peer.post.pid, signal.SIGKILL)

    def _let_the_failed_end(self, deadline: float) -> None:
        """A process with an error of its own shall print it first, and torchrun see it first."""
        while time.monotonic() < deadline and any(
            peer.end is not None and peer.end["kind"] == "failed" and peer.state != ""
            for rank, peer in self._posts.look().items()
            if rank != self.rank
        ):
            time.sleep(0.1)

    def _beside_the_end(self) -> None:
        """Let the watch finish where it has begun to end this process."""
        if self._ending.is_set():
            time.sleep(2 * END_SECONDS)

    def _stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2 * STORE_SECONDS)
        atexit.unregister(self._stop)

    def _age(self) -> float:
        return time.monotonic() - self._last[0]

    def _main_frame(self) -> FrameType | None:
        return sys._current_frames().get(self._main or 0)

    def _waits(self) -> bool:
        frame = self._main_frame()
        return frame is not None and waits_for_others(frame)

    def _post(self) -> None:
        moment, step, phase, beats = self._last
        age = time.monotonic() - moment
        waits = age >= self._stands_after and self._waits()
        self._posts.write(step=step, phase=phase, beats=beats, age=age, waits=waits)

    def _say_end(self, kind: str, text: str, code: int = PeerError.exit_code) -> None:
        """Tell the others how this process ends: it ``left``, ``failed``, or lost a ``peer``."""
        self._post()
        self._posts.write_end(kind, text, code)

    def _print_stack(self) -> None:
        frame = self._main_frame()
        if frame is not None:
            name = f"rank {self.rank} (pid {os.getpid()})"
            lines = "".join(traceback.format_stack(frame))
            self._print(f"{name} stands still; its main thread, last call last:\n{lines}".rstrip())

    def _print(self, text: str) -> None:
        """In one write, so that lines of several processes do not mix."""
        with contextlib.suppress(OSError):
            os.write(2, f"{printable_lines(text)}\n".encode())


def _exit_after(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(PeerError.exit_code)
