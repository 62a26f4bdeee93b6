# SPDX-License-Identifier: Apache-2.0
"""Who is to blame when a process of the group dies, leaves early or hangs.

A collective that fails names the process that waited, not the one that is gone, and a hang ends
at the group's timeout without a name. So a thread of every process posts where its main thread is
in the store of the launcher. When the main thread stands still, or a collective breaks, the posts
of all tell who is the cause.

A main thread that waits inside NCCL or gloo runs no Python, so it is the thread that prints and
ends the process.
"""

import atexit
import contextlib
import itertools
import json
import linecache
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from effdet import distributed
from effdet.errors import EffdetError, PeerError

INTERVAL = 0.5
"""Seconds between the posts of a process."""
SILENCE = 2.5
"""Seconds without a post after which a process does not run any more."""
GRACE = 5.0
"""Seconds that a process waits for one that is gone before it gives up."""
BLAME_SECONDS = 3.0
"""Seconds to find out why a collective broke."""
_CONNECT_TIMEOUT = timedelta(seconds=30)
_STORE_TIMEOUT = timedelta(seconds=3)
_END_SECONDS = 6.0  # from the verdict to the end of this process, whatever hangs

_BROKEN = re.compile(
    r"connection (closed|reset|refused|was closed|aborted)|broken pipe|socket|timed out|timeout"
    r"|nccl|gloo|process group|not all processes|monitoredbarrier|remote process",
    re.IGNORECASE,
)
_WAITS = re.compile(
    r"\b(wait|barrier|monitored_barrier|synchronize|item|tolist|cpu|backward"
    r"|(all_|re)?(reduce|gather)\w*|broadcast\w*)\s*\("
)


@dataclass(frozen=True, kw_only=True)
class _Post:
    """Where a process is, as it said last.

    Attributes:
        number: how many posts came before; while it grows, the process runs.
        pid: its process id on ``machine``.
        born: when it was started, in clock ticks since the boot; an id may be given again.
        machine: boot and process namespace that ``pid`` belongs to.
        host: the machine's name.
        step: training steps done.
        phase: what it does.
        beats: beats in this step.
        age: seconds since the last beat.
        waits: whether its main thread stands in a call that waits for others; only looked at
            while it stands still.
    """

    number: int
    pid: int
    born: str
    machine: str
    host: str
    step: int
    phase: str
    beats: int
    age: float
    waits: bool

    def name(self, rank: int) -> str:
        return f"rank {rank} (pid {self.pid} on {self.host})"

    @property
    def where(self) -> str:
        return f"in step {self.step} ({self.phase})"


@dataclass(frozen=True, kw_only=True)
class _Peer:
    """What is known about one process.

    Attributes:
        post: its last post, None before the first.
        silence: seconds since this process saw a new post of it.
        end: how it left, if it said so: ``{"kind": ..., "text": ...}``.
        state: R, S, T (stopped), ... of a process of this machine; "" for one that is gone;
            None where that cannot be seen.
    """

    post: _Post | None
    silence: float
    end: dict[str, str] | None
    state: str | None

    @property
    def gone(self) -> bool:
        return self.end is not None or self.state == ""

    @property
    def silent(self) -> bool:
        return self.silence > SILENCE

    @property
    def stuck(self) -> bool:
        """Whether it may be what a collective waited for until it gave up."""
        if self.post is None:
            return False
        return self.silent or (self.post.age > BLAME_SECONDS and not self.post.waits)


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
        self._store: Store | None = None
        self._numbers = itertools.count()
        self._me = {
            "pid": os.getpid(),
            "born": (_process_state(os.getpid()) or ("", ""))[1],
            "machine": _machine(),
            "host": socket.gethostname(),
        }
        self._seen: dict[int, tuple[int, float]] = {}  # rank -> its last post's number, and when
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._stopped = threading.Event()
        self._ending = threading.Event()
        self._last = (time.monotonic(), 0, "start", 0)

    def __enter__(self) -> "Peers":
        self._last = (time.monotonic(), 0, "start", 0)
        self._store = connect_store(_CONNECT_TIMEOUT) if self.world_size > 1 else None
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
                self.done()
            elif isinstance(error, SystemExit):
                self._say_end("left", f"with exit code {error.code or 0}")
            elif (found := self.blame(error)) is not None:
                raise found from error
            elif isinstance(error, PeerError):
                self._say_end("peer", str(error))
            else:
                self.failed(_text(error))
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

    def done(self) -> None:
        """Say that this process has ended as it should."""
        self._say_end("left", "with exit code 0")

    def failed(self, text: str) -> None:
        """Tell the others why this process fails, before it does."""
        self._say_end("failed", text)

    def blame(self, error: BaseException) -> PeerError | None:
        """The cause of a collective that broke, found within a few seconds.

        Returns:
            An error that names the rank that is gone, where it was, and what it said; one that
            names no rank where all still run; None for an error that is not about a connection.
        """
        if self.world_size == 1 or not _is_broken(error):
            return None
        self._beside_the_end()
        deadline = time.monotonic() + BLAME_SECONDS
        while self._store is not None:
            peers = self._look()
            text = self._verdict_text() or self._cause(peers, peers)
            if text is None and time.monotonic() > deadline:
                stuck = [rank for rank, peer in peers.items() if rank != self.rank and peer.stuck]
                text = self._hang_text(peers, stuck) if stuck else None
                break
            if text is not None:
                break
            self._beside_the_end()
            time.sleep(0.1)
        else:
            text = f"{_store_host()} is gone: {_text(error)}"
        text = text or f"the connection between the processes broke, all still run: {_text(error)}"
        self._let_the_failed_end(deadline)
        self._say_end("peer", text)
        return PeerError(text)

    # ---- the thread

    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self._post()
            age = self._age()
            if age < self._stands_after:
                self._seen.clear()
            elif self.world_size == 1 or self._store is None:
                if age > self.timeout:
                    self._end_alone(age)
            else:
                self._look_around(age)

    def _look_around(self, age: float) -> None:
        """End this process where all have come to an end, or one is gone that it waits for."""
        verdict = self._get("verdict")
        if verdict is None:
            found = self._judge(self._look(), age)
            if found is None:
                return
            text, guilty, silent = found
            mine = {"by": self.rank, "text": text, "guilty": guilty, "silent": silent}
            verdict = self._put_first("verdict", mine)
        if verdict is not None:
            self._end_together(verdict)

    def _judge(
        self, peers: dict[int, _Peer], age: float
    ) -> tuple[str, list[int], list[int]] | None:
        """Error text, guilty ranks, and those of them that do not run; None while there is hope."""
        gone = [rank for rank, peer in peers.items() if peer.gone]
        if gone and ((age > GRACE and self._waits()) or age > self.timeout):
            text = self._cause(peers, gone)
            return (text, gone, []) if text is not None else None
        if age < self.timeout:
            return None
        missing = [rank for rank, peer in peers.items() if peer.post is None]
        if missing:
            names = ", ".join(map(str, missing))
            return f"rank {names} has not started, the others wait for it", missing, []
        silent = [rank for rank, peer in peers.items() if peer.silent]
        if silent:
            return self._hang_text(peers, silent), silent, silent
        posts = {rank: peer.post for rank, peer in peers.items() if peer.post}
        if any(post.age < self.timeout for post in posts.values()):
            return None
        guilty = _hold_up(posts)
        return self._hang_text(peers, guilty), guilty, []

    def _end_alone(self, age: float) -> None:
        _, step, phase, _ = self._last
        text = f"no progress for {age:.0f} s in step {step} ({phase})"
        if self.world_size > 1:
            text = f"rank {self.rank}: {text}, and the store of the processes cannot be reached"
        self._begin_end()
        self._print_stack()
        self._print(f"{self.program}: error: {text}")
        self._leave(text)

    def _end_together(self, verdict: dict[str, Any]) -> None:
        """Stack of the guilty, one line by whoever found it, then the end of all."""
        self._begin_end()
        text, guilty = str(verdict["text"]), verdict["guilty"]
        if self.rank in guilty[:4]:
            self._print_stack()
            self._put(f"stack/{self.rank}", True)
        if verdict["by"] == self.rank:
            shown = [rank for rank in guilty[:4] if rank not in verdict["silent"]]
            self._await(1.5, lambda: all(self._get(f"stack/{rank}") for rank in shown))
            if _claim(self._store):
                self._print(f"{self.program}: error: {text}")
            self._put("said", True)
        else:
            self._await(2.5, lambda: self._get("said") is not None)
        self._leave(text, guilty, verdict["silent"])

    def _begin_end(self) -> None:
        self._ending.set()
        threading.Thread(target=_exit_after, args=(_END_SECONDS,), daemon=True).start()

    def _leave(self, text: str, guilty: Sequence[int] = (), kill: Sequence[int] = ()) -> None:
        """Write what the caller wants to write, end those that cannot do it, end this process."""
        if self._on_end is not None:
            writer = threading.Thread(
                target=self._on_end, args=(text, PeerError.exit_code), daemon=True
            )
            writer.start()
            writer.join(2.0)
        _tell_launcher(f"{self.program}: error: {text}")
        for rank in kill:
            self._kill(rank)
        if self.rank not in guilty:
            time.sleep(INTERVAL)  # torchrun names the first that ends
        os._exit(PeerError.exit_code)

    def _kill(self, rank: int) -> None:
        """End a process of this machine that a launcher would wait for in vain."""
        peer = self._look().get(rank)
        if peer is not None and peer.post is not None and peer.state:
            with contextlib.suppress(OSError):
                os.kill(peer.post.pid, signal.SIGKILL)

    def _let_the_failed_end(self, deadline: float) -> None:
        """A process with an error of its own shall print it first, and torchrun see it first."""
        while time.monotonic() < deadline and any(
            peer.end is not None and peer.end["kind"] == "failed" and peer.state != ""
            for rank, peer in self._look().items()
            if rank != self.rank
        ):
            time.sleep(0.1)

    def _beside_the_end(self) -> None:
        """Let the watch finish where it has begun to end this process."""
        if self._ending.is_set():
            time.sleep(2 * _END_SECONDS)

    def _stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2 * _STORE_TIMEOUT.total_seconds())
        atexit.unregister(self._stop)

    # ---- what is known

    def _age(self) -> float:
        return time.monotonic() - self._last[0]

    def _waits(self) -> bool:
        frame = sys._current_frames().get(self._main or 0)
        return frame is not None and _waits_for_others(frame)

    def _post(self) -> None:
        moment, step, phase, beats = self._last
        age = time.monotonic() - moment
        post = _Post(
            **self._me,  # type: ignore[arg-type]
            number=next(self._numbers),
            step=step,
            phase=phase,
            beats=beats,
            age=age,
            waits=age >= self._stands_after and self._waits(),
        )
        self._put(f"post/{self.rank}", asdict(post))

    def _say_end(self, kind: str, text: str) -> None:
        """The first word counts: what follows are consequences."""
        self._post()
        self._put_first(f"end/{self.rank}", {"kind": kind, "text": text})

    def _look(self) -> dict[int, _Peer]:
        """What is known about each process, this one included."""
        peers = {}
        for rank in range(self.world_size):
            content = self._get(f"post/{rank}")
            post = _Post(**content) if content is not None else None
            number = post.number if post is not None else -1
            now = time.monotonic()
            if self._seen.get(rank, (None, 0.0))[0] != number:
                self._seen[rank] = (number, now)
            peers[rank] = _Peer(
                post=post,
                silence=now - self._seen[rank][1] if rank != self.rank else 0.0,
                end=self._get(f"end/{rank}"),
                state=self._state(post),
            )
        return peers if self._store is not None else {}

    def _state(self, post: _Post | None) -> str | None:
        if post is None or post.machine != self._me["machine"] or not post.born:
            return None
        state = _process_state(post.pid)
        return state[0] if state is not None and state[1] == post.born else ""

    def _verdict_text(self) -> str | None:
        verdict = self._get("verdict")
        return str(verdict["text"]) if verdict is not None else None

    def _cause(self, peers: dict[int, _Peer], among: Iterable[int]) -> str | None:
        """What ended first among the ``among`` ranks but this: an error, a death, a departure."""
        found: list[tuple[int, str]] = []
        for rank in among:
            peer = peers[rank]
            if rank == self.rank or not peer.gone:
                continue
            name = peer.post.name(rank) if peer.post else f"rank {rank}"
            where = peer.post.where if peer.post else "at the start"
            if peer.end is None:
                found.append((1, f"{name} died, killed or ended without a word, last seen {where}"))
            elif peer.end["kind"] == "failed":
                found.append((0, f"{name} failed {where}: {peer.end['text']}"))
            elif peer.end["kind"] == "left":
                found.append((2, f"{name} left early {peer.end['text']}, {where}"))
            else:
                found.append((3, peer.end["text"]))
        return min(found, default=(0, None))[1]

    def _hang_text(self, peers: dict[int, _Peer], guilty: list[int]) -> str:
        posts = {rank: post for rank in guilty if (post := peers[rank].post) is not None}
        if len(posts) == self.world_size:
            age, where = min(post.age for post in posts.values()), posts[0].where
            return f"none of the {len(posts)} processes has made progress for {age:.0f} s {where}"
        parts = []
        for rank, post in itertools.islice(posts.items(), 4):
            age = post.age + peers[rank].silence
            text = f"{post.name(rank)} has made no progress for {age:.0f} s {post.where}"
            if peers[rank].state == "T":
                text += " (it is stopped)"
            elif peers[rank].silent:
                text += " (it does not answer)"
            parts.append(text)
        if len(posts) > 4:
            parts.append(f"{len(posts) - 4} more ranks neither")
        return ", ".join(parts) + ", the others wait for " + ("it" if len(posts) == 1 else "them")

    # ---- the store, which may go away at any time

    def _put(self, key: str, value: Any) -> None:
        if self._store is not None:
            try:
                self._store.set(key, json.dumps(value))
            except RuntimeError:
                self._store = None

    def _put_first(self, key: str, value: dict[str, Any]) -> dict[str, Any] | None:
        """Set ``key`` where it is not set; its value, None without a store."""
        if self._store is None:
            return None
        try:
            content = self._store.compare_set(key, "", json.dumps(value))
        except RuntimeError:
            self._store = None
            return None
        return dict(json.loads(content))

    def _get(self, key: str) -> Any:
        if self._store is None:
            return None
        try:
            return json.loads(self._store.get(key)) if self._store.check([key]) else None
        except RuntimeError:
            self._store = None
            return None

    def _await(self, seconds: float, happens: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while self._store is not None and time.monotonic() < deadline and not happens():
            time.sleep(0.05)

    # ---- stderr

    def _print_stack(self) -> None:
        frame = sys._current_frames().get(self._main or 0)
        if frame is not None:
            name = f"rank {self.rank} (pid {os.getpid()})"
            lines = "".join(traceback.format_stack(frame))
            self._print(f"{name} stands still; its main thread, last call last:\n{lines}".rstrip())

    def _print(self, text: str) -> None:
        """In one write, so that lines of several processes do not mix."""
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n".encode(errors="backslashreplace"))


def connect_store(timeout: timedelta = _STORE_TIMEOUT) -> Store | None:
    """A client of its own at the store that the group was built with; None without one.

    Its keys belong to this run and this start of it: torchrun keeps the store when it restarts.
    """
    if not distributed.is_launched():
        return None
    run = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timeout,
            wait_for_workers=False,
        )
        store.set_timeout(_STORE_TIMEOUT)
    except (RuntimeError, KeyError, ValueError):
        return None
    return PrefixStore(f"effdet/{run}/{restart}", store)


def report(line: str) -> bool:
    """Tell the launcher of an error, for its summary, and whether this process shall print it.

    Only the first error of a group is printed: it is the cause, or the same on all. Where another
    process was first, this returns when that one has had the time to print and to end.
    """
    if not distributed.is_launched():
        return True
    _tell_launcher(line)
    if _claim(connect_store()):
        return True
    time.sleep(INTERVAL)
    return False


def _tell_launcher(line: str) -> None:
    """Leave ``line`` where torchrun looks for the error of a process."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    content = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
    with contextlib.suppress(OSError):
        Path(path).write_text(json.dumps({"message": content}))


def _claim(store: Store | None) -> bool:
    """Whether this call is the first of the group, or nobody can tell."""
    if store is None:
        return True
    try:
        return int(store.add("reported", 1)) == 1
    except RuntimeError:
        return True


def _hold_up(posts: dict[int, _Post]) -> list[int]:
    """The ranks that the others wait for, all ranks where that cannot be told.

    First those whose main thread is not in a waiting call: rank 0 may be ahead of the others and
    yet be the one that they wait for. Among these, or where all wait, those that are behind.
    """
    busy = {rank: post for rank, post in posts.items() if not post.waits} or posts
    position = min((post.step, post.beats) for post in busy.values())
    return [rank for rank, post in busy.items() if (post.step, post.beats) == position]


def _waits_for_others(frame: FrameType) -> bool:
    """Whether the innermost call of a main thread is one that waits: a collective, or the GPU."""
    file = frame.f_code.co_filename
    if "/torch/distributed/" in file or file.endswith("/torch/autograd/graph.py"):
        return True
    # A frame between two lines has no number.
    return _WAITS.search(linecache.getline(file, frame.f_lineno or 0)) is not None


def _is_broken(error: BaseException) -> bool:
    """Whether ``error`` comes from a collective and not from our own code."""
    if isinstance(error, EffdetError) or not isinstance(error, RuntimeError):
        return False
    text = str(error)
    if text.startswith("DataLoader"):  # "timed out after 300 seconds"
        return False
    return isinstance(error, dist.DistError) or _BROKEN.search(text) is not None


def _text(error: BaseException) -> str:
    """``error`` in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, EffdetError):
        return text
    return f"{type(error).__name__}: {text}"[:400] if text else type(error).__name__


def _store_host() -> str:
    """Who holds the store of the group."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return "the launcher of the processes"
    return "rank 0, which holds the store of the group,"


def _machine() -> str:
    """Where a process id means the same process: this boot, this process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_state(pid: int) -> tuple[str, str] | None:
    """State letter and start time of a process; None for one that is gone or cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (fields[0], fields[19])


def _exit_after(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(PeerError.exit_code)
