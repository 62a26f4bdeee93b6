# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effdet.processes import (
    die_with_parent,
    machine_id,
    peak_memory,
    process_state,
)

ROOT = Path(__file__).parents[1]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a call of Linux")

# Prints the pid of a child that sleeps, then sleeps itself.
PARENT = """
import os, time
from effdet.processes import die_with_parent
ready, told = os.pipe()
if (child := os.fork()) == 0:
    os.write(told, b"yes" if {call} else b"no")
    time.sleep(60)
    os._exit(0)
os.read(ready, 3)
print(child, flush=True)
time.sleep(60)
"""


def ends_within(pid: int, seconds: float) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for, in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


@linux
@pytest.mark.parametrize(("call", "ends"), [("die_with_parent()", True), ("False", False)])
def test_a_child_ends_with_its_killed_parent(call: str, ends: bool) -> None:
    code = PARENT.format(call=call)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        assert ends_within(child, 1.0 if ends else 0.3) == ends
        if not ends:
            os.kill(child, signal.SIGKILL)


@linux
def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "from effdet.processes import die_with_parent; die_with_parent(parent=1 << 30)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30)
    assert done.returncode == -signal.SIGKILL


def test_other_systems_are_told_that_they_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert die_with_parent(parent=-1) is False


@linux
def test_a_process_has_a_state_until_it_is_gone_and_the_same_start_all_along() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    first = process_state(child.pid)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    stopped = process_state(child.pid)
    assert first is not None
    assert stopped == ("T", first[1])
    child.kill()
    child.wait()
    assert process_state(child.pid) is None


@linux
def test_all_processes_of_a_machine_have_its_id() -> None:
    code = "from effdet.processes import machine_id; print(machine_id())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{machine_id()}\n"
    assert machine_id() != ""


@linux
def test_the_peak_is_that_of_the_process_and_not_of_the_one_that_started_it() -> None:
    """The kernel's ru_maxrss of a new process is that of the one before, if that is more."""
    ballast = b"x" * 300_000_000
    del ballast
    assert (peak_memory() or 0) > 300_000_000
    code = "from effdet.processes import *; print(resident_memory(), peak_memory())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    now, peak = map(int, done.stdout.split())
    assert 0 < now <= peak < 200_000_000
