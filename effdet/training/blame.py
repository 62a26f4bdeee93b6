# SPDX-License-Identifier: Apache-2.0
"""Who is to blame when a process of the group dies, leaves early or hangs: nothing but judging.

A rank that is ahead may be the one that the others wait for, one that is behind may be waiting
itself, and an error may be the consequence of another one; so all posts are looked at together.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch.distributed as dist

from effdet.errors import EffdetError, PeerError, one_line
from effdet.training.posts import Peer, Post

GRACE = 5.0
"""Seconds that a process waits for one that is gone before it gives up."""
BLAME_SECONDS = 3.0
"""Seconds to find out why a collective broke."""
NAMED = 4
"""Guilty ranks that are named and show where they are, of however many."""

_BROKEN = re.compile(
    r"connection (closed|reset|refused|was closed|aborted)|broken pipe|socket|timed out|timeout"
    r"|nccl|gloo|process group|not all processes|monitoredbarrier|remote process",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why a group must end.

    Attributes:
        text: the error that the user reads.
        guilty: ranks that are the cause.
        silent: those of them that do not run and so cannot end themselves.
        code: exit code of all.
    """

    text: str
    guilty: list[int]
    silent: list[int]
    code: int = PeerError.exit_code


def judge(
    peers: Mapping[int, Peer], *, by: int, age: float, waits: bool, timeout: float
) -> Verdict | None:
    """Whether the group must end, as a process that stands still sees it; None while there is hope.

    Args:
        peers: what is known about each process.
        by: rank of the process that judges.
        age: seconds since its last beat.
        waits: whether it waits for others.
        timeout: seconds without progress after which the run is given up.
    """
    if not peers:
        return None
    gone = [rank for rank, peer in peers.items() if peer.gone]
    if gone and ((age > GRACE and waits) or age > timeout):
        cause = find_cause(peers, by)
        code = exit_code_of_cause(peers, by)
        return None if cause is None else Verdict(text=cause, guilty=gone, silent=[], code=code)
    if age < timeout:
        return None
    missing = [rank for rank, peer in peers.items() if peer.post is None]
    if missing:
        names = ", ".join(map(str, missing))
        text = f"rank {names} has not started, the others wait for it"
        return Verdict(text=text, guilty=missing, silent=[])
    silent = [rank for rank, peer in peers.items() if peer.silent]
    if silent:
        return Verdict(text=describe_hang(peers, silent), guilty=silent, silent=silent)
    posts = {rank: peer.post for rank, peer in peers.items() if peer.post}
    if any(post.age < timeout for post in posts.values()):
        return None
    guilty = _awaited(posts)
    return Verdict(text=describe_hang(peers, guilty), guilty=guilty, silent=[])


def find_cause(peers: Mapping[int, Peer], by: int) -> str | None:
    """What ended first of all but rank ``by``: an error, a death, a departure; None for nothing."""
    found = [_ending(rank, peer) for rank, peer in peers.items() if peer.gone and rank != by]
    return min(found, default=(0, None))[1]


def exit_code_of_cause(peers: Mapping[int, Peer], by: int) -> int:
    """The exit code of the error with which another process failed, else that of a lost one."""
    ends = [peer.end for rank, peer in peers.items() if peer.end is not None and rank != by]
    codes = [int(end["code"]) for end in ends if end["kind"] == "failed"]
    return codes[0] if codes else PeerError.exit_code


def _ending(rank: int, peer: Peer) -> tuple[int, str]:
    """How a process ended, and before it a number: the lower, the likelier it is the cause."""
    name = peer.post.name(rank) if peer.post else f"rank {rank}"
    where = peer.post.where if peer.post else "at the start"
    if peer.end is None:
        return 1, f"{name} died, killed or ended without a word, last seen {where}"
    if peer.end["kind"] == "failed":
        return 0, f"{name} failed {where}: {peer.end['text']}"
    if peer.end["kind"] == "left":
        return 2, f"{name} left early {peer.end['text']}, {where}"
    return 3, peer.end["text"]


def find_stuck(peers: Mapping[int, Peer], by: int) -> list[int]:
    """The ranks but ``by`` that a collective may have waited for until it gave up."""
    return [
        rank
        for rank, peer in peers.items()
        if rank != by
        and peer.post is not None
        and (peer.silent or (peer.post.age > BLAME_SECONDS and not peer.post.waits))
    ]


def _awaited(posts: Mapping[int, Post]) -> list[int]:
    """The ranks that the others wait for, all ranks where that cannot be told.

    First those whose main thread is not in a waiting call: rank 0 may be ahead of the others and
    yet be the one that they wait for. Among these, or where all wait, those that are behind.
    """
    busy = {rank: post for rank, post in posts.items() if not post.waits} or posts
    position = min((post.step, post.beats) for post in busy.values())
    return [rank for rank, post in busy.items() if (post.step, post.beats) == position]


def describe_hang(peers: Mapping[int, Peer], guilty: Iterable[int]) -> str:
    """Where the guilty are and for how long."""
    posts = {rank: post for rank in guilty if (post := peers[rank].post) is not None}
    if len(posts) == len(peers):
        age, where = min(post.age for post in posts.values()), posts[0].where
        return f"none of the {len(posts)} processes has made progress for {age:.0f} s {where}"
    parts = []
    for rank, post in itertools.islice(posts.items(), NAMED):
        age = post.age + peers[rank].silence
        text = f"{post.name(rank)} has made no progress for {age:.0f} s {post.where}"
        if peers[rank].state == "T":
            text += " (it is stopped)"
        elif peers[rank].silent:
            text += " (it does not answer)"
        parts.append(text)
    if len(posts) > NAMED:
        parts.append(f"{len(posts) - NAMED} more ranks neither")
    return ", ".join(parts) + ", the others wait for " + ("it" if len(posts) == 1 else "them")


def is_broken_collective(error: BaseException) -> bool:
    """Whether ``error`` comes from a collective and not from our own code."""
    if isinstance(error, EffdetError) or not isinstance(error, RuntimeError):
        return False
    text = str(error)
    if text.startswith("DataLoader"):  # "timed out after 300 seconds"
        return False
    return isinstance(error, dist.DistError) or _BROKEN.search(text) is not None


def describe_error(error: BaseException) -> str:
    """``error`` in one line that is not too long, with its type where it is not ours."""
    text = one_line(error)
    if isinstance(error, EffdetError):
        return text
    return f"{type(error).__name__}: {text}"[:400] if text else type(error).__name__
