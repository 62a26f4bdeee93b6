# SPDX-License-Identifier: Apache-2.0
"""What a process asks of the operating system about itself and others."""

import ctypes
import hashlib
import os
import re
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int | None = None) -> bool:
    """Have the kernel kill this process (SIGKILL) as soon as its parent ends, however that ends.

    For loader workers, and for ranks under torchrun: without it a killed agent leaves its ranks
    running, and a restarted job finds them still writing. The kernel watches the parent's *thread*
    that started this process, so that thread must live as long as the process shall.

    Args:
        parent: process id that the parent must have; by default that of the parent now. Where
            another process is the parent already, the right one is gone and this one ends.

    Returns:
        Whether the kernel will do it; False on systems other than Linux, where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    expected = os.getppid() if parent is None else parent
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return False
    if prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3) != 0:
        return False
    if os.getppid() != expected:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def process_state(pid: int) -> tuple[str, str] | None:
    """State letter and start time, in clock ticks since the boot, of a process of this machine.

    None for one that is gone, for a zombie, and where it cannot be seen.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (fields[0], fields[19])


def machine_id() -> str:
    """Where a process id means the same process: this boot, this process namespace; "" unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def process_mark(pid: int) -> str:
    """``PID-START-MACHINE``, which no other process ever has; START is 0 for one that is gone.

    ``PID`` alone where the system does not tell more.
    """
    machine = machine_id()
    if not machine:
        return str(pid)
    _, start = process_state(pid) or ("", "0")
    return f"{pid}-{start}-{hashlib.sha256(machine.encode()).hexdigest()[:8]}"


def resident_memory() -> int | None:
    """Bytes that this process holds now; None where the system does not say."""
    return _memory("VmRSS")


def peak_memory() -> int | None:
    """The most bytes that this process has held; None where the system does not say."""
    found = _memory("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    # On Linux not below the peak of the process that started this one, which it takes over.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _memory(entry: str) -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{entry}:\s+(\d+) kB$", status, re.MULTILINE)
    return None if found is None else 1024 * int(found[1])
