# SPDX-License-Identifier: Apache-2.0
"""Where the processes of a group are: what each posts of itself, and what is seen of the others."""

import itertools
import linecache
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

from effdet.processes import machine_id, process_state
from effdet.training.board import Board

SILENCE = 2.5
"""Seconds without a post after which a process does not run any more."""

_WAITS = re.compile(
    r"\b(wait|barrier|monitored_barrier|synchronize|item|tolist|cpu|backward"
    r"|(all_|re)?(reduce|gather)\w*|broadcast\w*)\s*\("
)


@dataclass(frozen=True, kw_only=True)
class Post:
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
        """Rank, process and machine, for a message."""
        return f"rank {rank} (pid {self.pid} on {self.host})"

    @property
    def where(self) -> str:
        """Step and phase, for a message."""
        return f"in step {self.step} ({self.phase})"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What is known about one process.

    Attributes:
        post: its last post, None before the first.
        silence: seconds since this process saw a new post of it.
        end: how it left, if it said so: ``{"kind": ..., "text": ..., "code": ...}``, the last the
            exit code of its error.
        state: R, S, T (stopped), ... of a process of this machine; "" for one that is gone;
            None where that cannot be seen.
    """

    post: Post | None
    silence: float
    end: Mapping[str, Any] | None
    state: str | None

    @property
    def gone(self) -> bool:
        """Whether it has ended, or is about to."""
        return self.end is not None or self.state == ""

    @property
    def silent(self) -> bool:
        """Whether it is there and does not run: stopped, or its machine is out of reach."""
        return self.silence > SILENCE


class Posts:
    """The posts of a group on a board.

    Args:
        board: where they are.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, board: Board, rank: int, world_size: int) -> None:
        self.board, self.rank, self.world_size = board, rank, world_size
        self._numbers = itertools.count()
        _, born = process_state(os.getpid()) or ("", "")
        self._identity: dict[str, Any] = {
            "pid": os.getpid(),
            "born": born,
            "machine": machine_id(),
            "host": socket.gethostname(),
        }
        self._seen: dict[int, tuple[int, float]] = {}  # rank -> its last post's number, and when

    def write(self, *, step: int, phase: str, beats: int, age: float, waits: bool) -> None:
        """Post where this process is, the words as in :class:`Post`."""
        post = Post(
            number=next(self._numbers),
            step=step,
            phase=phase,
            beats=beats,
            age=age,
            waits=waits,
            **self._identity,
        )
        self.board.put(f"post/{self.rank}", asdict(post))

    def write_end(self, kind: str, text: str, code: int) -> None:
        """Say how this process leaves. The first word counts: what follows are consequences."""
        self.board.put_first(f"end/{self.rank}", {"kind": kind, "text": text, "code": code})

    def look(self) -> dict[int, Peer]:
        """What is known about each process, this one included; nothing where the board is gone."""
        peers = {rank: self._peer(rank) for rank in range(self.world_size)}
        return {} if self.board.gone else peers

    def forget(self) -> None:
        """Nobody was silent until the next look."""
        self._seen.clear()

    def _peer(self, rank: int) -> Peer:
        content = self.board.get(f"post/{rank}")
        post = Post(**content) if content is not None else None
        number = post.number if post is not None else -1
        now = time.monotonic()
        if self._seen.get(rank, (None, 0.0))[0] != number:
            self._seen[rank] = (number, now)
        return Peer(
            post=post,
            silence=now - self._seen[rank][1] if rank != self.rank else 0.0,
            end=self.board.get(f"end/{rank}"),
            state=self._state(post),
        )

    def _state(self, post: Post | None) -> str | None:
        if post is None or post.machine != self._identity["machine"] or not post.born:
            return None
        state, born = process_state(post.pid) or ("", "")
        return state if born == post.born else ""


def waits_for_others(frame: FrameType) -> bool:
    """Whether the innermost call of a main thread is one that waits: a collective, or the GPU."""
    file = frame.f_code.co_filename
    if "/torch/distributed/" in file or file.endswith("/torch/autograd/graph.py"):
        return True
    # A frame between two lines has no number.
    return _WAITS.search(linecache.getline(file, frame.f_lineno or 0)) is not None
