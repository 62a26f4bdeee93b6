# SPDX-License-Identifier: Apache-2.0
"""Kill a process while it saves, and look what it left.

    python -m tests.reliability.saving kills --count 60 --seed 0
    python -m tests.reliability.saving calls --size 100000

``kills``: a child saves checkpoints 1, 2, 3, ... back to back and tells each that is done; after a
random time it is killed. ``calls``: a child saves once under a tracer and is killed before and
after every system call in turn. Both do it to our save and to a plain ``torch.save``, in a process
that has imported torch already and forks. The outcome of a kill, by the newest checkpoint found:

- whole: all tensors are of one save, which is at least the last that was done;
- lost: nothing can be read; torn: tensors of two saves; stale: older than the last that was done.
"""

import argparse
import collections
import ctypes
import dataclasses
import errno
import itertools
import json
import os
import random
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.config import model_config
from effdet.files import remove_leftovers
from effdet.run_files import LAST
from effdet.structures import ClassMap
from effdet.training.run_folder import newest_checkpoint, save_last
from effdet.weights import Checkpoint
from tests.any_weights import any_weights

TRACE_ME, NEXT_CALL, SET_OPTIONS = 0, 24, 0x4200
MARK_CALLS, KILL_WITH_TRACER = 0x1, 0x100000
CALL_STOP = signal.SIGTRAP | 0x80


class NotAllowedError(Exception):
    """Tracing is forbidden here."""


@dataclass(frozen=True)
class Saver:
    """Saves number ``k`` into a folder; loads tensors and the number they should hold."""

    save: Callable[[Path, int, int], None]
    load: Callable[[Path], tuple[int, list[Tensor]]]


def checkpoint(number: int, size: int = 256) -> Checkpoint:
    """Save ``number`` of a run: every tensor is full of it; about ``size`` bytes in all."""
    values = torch.full((max(size // 16, 1),), float(number))
    return Checkpoint(
        model_config=model_config("efficientdet_lite0", num_classes=2),
        class_map=ClassMap(("cat", "dog"), (1, 2)),
        model={"weight": values, "bias": values.clone()},
        ema={"weight": values.clone()},
        metrics={},
        training={"step": number, "optimizer": {"state": {0: values.clone()}}},
    )


def tensors_of(found: Checkpoint) -> list[Tensor]:
    """All that a checkpoint of :func:`checkpoint` holds."""
    state = found.training["optimizer"]["state"].values()
    return [*found.model.values(), *(found.ema or {}).values(), *state]


def save_ours(folder: Path, number: int, size: int) -> None:
    """As a run does it."""
    save_last(folder, checkpoint(number, size))


def load_ours(folder: Path) -> tuple[int, list[Tensor]]:
    """As a run does it; a damaged newer file would be an error too."""
    warnings: list[str] = []
    with any_weights():
        found = newest_checkpoint(folder, warnings.append)
    if found is None or warnings:
        raise FileNotFoundError(f"found {found}, {warnings}")
    return found[1].training["step"], tensors_of(found[1])


def save_plain(folder: Path, number: int, size: int) -> None:
    """The same tensors with ``torch.save`` onto the file."""
    torch.save(dataclasses.asdict(checkpoint(number, size)) | {"class_map": None}, folder / LAST)


def load_plain(folder: Path) -> tuple[int, list[Tensor]]:
    """The inverse of :func:`save_plain`."""
    values = torch.load(folder / LAST, weights_only=True)
    state = values["training"]["optimizer"]["state"].values()
    tensors = [*values["model"].values(), *values["ema"].values(), *state]
    return values["training"]["step"], tensors


SAVERS = {"ours": Saver(save_ours, load_ours), "torch.save": Saver(save_plain, load_plain)}


def outcome(saver: Saver, folder: Path, done: int) -> tuple[str, int]:
    """What a killed process left, and the number of the save that was found."""
    try:
        number, tensors = saver.load(folder)
    except Exception:  # any error on the way to a checkpoint is the loss of it
        return "lost", done
    if any((tensor != number).any() for tensor in tensors):
        return "torn", number
    return ("stale" if number < done else "whole"), number


def kill_at_random(name: str, folder: Path, count: int, seed: int, size: int) -> dict[str, int]:
    """Kill ``count`` times, each after 0 to 60 ms of saving; how often there was which outcome.

    ``temporary_file`` counts kills that left one: they came in the middle of a save. After a loss
    a good file is written anew.
    """
    saver, times = SAVERS[name], random.Random(seed)
    outcomes = dict.fromkeys(("whole", "lost", "torn", "stale", "temporary_file"), 0)
    saver.save(folder, 0, size)
    number = 0
    for _ in range(count):
        done = kill_after(times.uniform(0, 0.06), saver, folder, number, size)
        outcomes["temporary_file"] += any(folder.glob(".*.tmp-*"))
        word, number = outcome(saver, folder, done)
        outcomes[word] += 1
        if word != "whole":
            saver.save(folder, done, size)
            number = done
    return outcomes


def kill_after(seconds: float, saver: Saver, folder: Path, number: int, size: int) -> int:
    """Let a child save ``number`` + 1, ... and kill it; the number of the last one it had done."""
    read, write = os.pipe()

    def save_on() -> None:
        os.close(read)
        remove_leftovers(folder)
        for k in itertools.count(number + 1):
            saver.save(folder, k, size)
            os.write(write, struct.pack("<q", k))

    with forked(save_on) as child:
        os.close(write)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended before it was killed"
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    return int(struct.unpack("<q", told[-8:])[0]) if told else number


def kill_at_every_call(name: str, folder: Path, size: int) -> dict[str, Any]:
    """Kill one save over an old one before and after each of its system calls.

    Returns:
        How often there was which outcome, and which of the saves (1 the old, 2 the new) was found.
    """
    saver = SAVERS[name]
    outcomes = dict.fromkeys(("whole", "lost", "torn", "stale"), 0)
    found: collections.Counter[str] = collections.Counter()
    for stop in itertools.count(1):
        for path in folder.iterdir():
            path.unlink()
        for number in (0, 1):
            saver.save(folder, number, size)
        killed = kill_at_call(stop, lambda: saver.save(folder, 2, size))
        word, number = outcome(saver, folder, 1 if killed else 2)
        outcomes[word] += 1
        found[str(number)] += word != "lost"
        remove_leftovers(folder)
        assert not list(folder.glob(".*")), "a temporary file of a dead process was left"
        if not killed:
            return {"kills": stop - 1, **outcomes, "found": dict(found)}
    raise AssertionError("unreachable")


def kill_at_call(stop: int, work: Callable[[], None]) -> bool:
    """Kill a child at stop ``stop`` of ``work`` (a call has two); False where it ends before."""

    def traced() -> None:
        if ptrace(TRACE_ME, 0):
            os._exit(errno.EPERM)
        os.kill(os.getpid(), signal.SIGSTOP)
        work()
        os.kill(os.getpid(), signal.SIGSTOP)

    with forked(traced) as child:
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            raise NotAllowedError("ptrace is not allowed here")
        ptrace(SET_OPTIONS, child, MARK_CALLS | KILL_WITH_TRACER)
        for _ in range(stop):
            status = to_next_call(child)
            if os.WSTOPSIG(status) != CALL_STOP:
                break
        ended = os.WSTOPSIG(status) != CALL_STOP
        assert not ended or os.WSTOPSIG(status) == signal.SIGSTOP, "work was stopped by a signal"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return not ended


def to_next_call(child: int) -> int:
    """The wait status of the child's next stop."""
    ptrace(NEXT_CALL, child)
    _, status = os.waitpid(child, 0)
    assert os.WIFSTOPPED(status), f"the child ended with status {status}"
    return status


def ptrace(request: int, child: int, data: int = 0) -> int:
    """The system call of this name."""
    function = ctypes.CDLL(None, use_errno=True).ptrace
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return int(function(request, child, None, data))


@contextmanager
def forked(work: Callable[[], None]) -> Iterator[int]:
    """A child that does ``work``; who has it must wait for it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    yield child


def main() -> None:
    """Kill, and print the outcomes as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("test", choices=["kills", "calls"])
    parser.add_argument("--count", type=int, default=60, help="kills of each saver")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=1_000_000, help="bytes of tensors")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for name in SAVERS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            if options.test == "calls":
                figures[name] = kill_at_every_call(name, folder, options.size)
            else:
                figures[name] = kill_at_random(
                    name, folder, options.count, options.seed, options.size
                )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
