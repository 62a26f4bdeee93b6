# SPDX-License-Identifier: Apache-2.0
"""Run a case in a process of its own: what it says, whether it dies, what it costs."""

import json
import os
import re
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HUNG, DIED = "HUNG", "DIED"


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        text: what it returned, or one of ``HUNG`` and ``DIED`` and a reason.
        seconds: of processor time.
        memory: bytes at most, beyond what the process began with.
    """

    text: str
    seconds: float
    memory: int


def in_child(case: Callable[[], str], limit: float = 20.0) -> Outcome:
    """``case()`` in a forked child that may take ``limit`` seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as stream:
                stream.write(json.dumps(_measured(case)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        return _awaited(child, reading, limit)
    finally:
        os.close(reading)


def _measured(case: Callable[[], str]) -> list[object]:
    Path("/proc/self/clear_refs").write_text("5")  # the most from now on
    before, start = memory("VmRSS"), time.process_time()
    try:
        text = case()
    except BaseException as error:
        text = f"UNEXPECTED {error!r}"
    seconds = time.process_time() - start
    return [text, seconds, memory("VmHWM") - before]


def _awaited(child: int, reading: int, limit: float) -> Outcome:
    ready, _, _ = select.select([reading], [], [], limit)
    if not ready:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Outcome(f"{HUNG} for {limit:g} s", limit, 0)
    said = b""
    while block := os.read(reading, 1 << 16):
        said += block
    _, status = os.waitpid(child, 0)
    if not said:
        return Outcome(f"{DIED} with status {status}", 0.0, 0)
    return Outcome(*json.loads(said))


def memory(name: str) -> int:
    """Bytes of this process: now (``VmRSS``) or at most (``VmHWM``)."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
