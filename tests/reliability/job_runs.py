# SPDX-License-Identifier: Apache-2.0
"""Start, watch and end small jobs of ``job.py``."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.reliability.job import ROOT, Orders
from tests.runs import tiny_coco

PROGRAM = Path(__file__).with_name("job.py")
IMAGES, BATCH, EPOCHS = 50, 4, 4
STEPS_PER_EPOCH = IMAGES // (2 * BATCH)  # two images are left over in each epoch
VALIDATION_IMAGES = 11
INFINITE = tuple(range(5, EPOCHS * STEPS_PER_EPOCH, 11))
"""Steps without finite gradients in the jobs that are killed."""

NO_PART_OF_A_RESULT = {"images_per_second", "data_share", "memory", "seconds"}


class Server:
    """A process that forks jobs, and all that they leave behind.

    Args:
        folder: for data and jobs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = tiny_coco(folder / "data", images=IMAGES)
        self.validation = tiny_coco(folder / "validation", images=VALIDATION_IMAGES)
        self.jobs: list[Job] = []
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "serve"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._read() == "ready"

    def job(self, name: str, orders: Orders | None = None, *words: str) -> "Job":
        """A job that is not started yet; ``words`` are more options of train.py."""
        job = Job(self, self.folder / name, orders or Orders(infinite=INFINITE), words)
        self.jobs.append(job)
        return job

    def start(self, request: Mapping[str, Any]) -> int:
        """Have a job forked; its process id."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return int(self._read())

    def close(self) -> None:
        """End all processes of all jobs, then the server."""
        for job in self.jobs:
            job.clear()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()


class Job:
    """A job in a folder of its own, started as often as it takes.

    Attributes:
        folder: working folder of all its processes.
        run: the run folder.
        pid: of the agent, or of the only process without torchrun.
    """

    def __init__(self, server: Server, folder: Path, orders: Orders, words: Sequence[str]) -> None:
        self.server, self.folder, self.orders = server, folder, orders
        self.run = folder / "run"
        validation = server.validation
        self.words = (
            "--data", str(server.data), "--val-images", str(validation / "val"),
            "--val-annotations", str(validation / "annotations" / "instances_val.json"),
            "--model", "tiny", "--batch-size", str(BATCH), "--epochs", str(EPOCHS),
            "--workers", "1", "--lr", "0.5", "--warmup-epochs", "1", "--ema-decay", "0.9",
            "--log-every", "2", "--timeout", "30", "--output", "run", *words,
        )  # fmt: skip
        self.pid = 0
        folder.mkdir()

    def start(
        self, *words: str, processes: int = 2, launcher: Sequence[str] = (), forked: bool = True
    ) -> "Job":
        """Start it under torchrun, or with ``processes`` 0 as plain train.py.

        Args:
            words: more options of train.py.
            processes: ranks.
            launcher: more options of torchrun.
            forked: by the server; else the real torchrun starts real programs.
        """
        for name in ("ended", "phase-0", "phase-1", "stdout", "stderr"):
            (self.folder / name).unlink(missing_ok=True)
        options = [f"--nproc-per-node={processes}", "--standalone", *launcher]
        words = (*self.words, *words)
        if forked:
            self.pid = self.server.start(
                {
                    "folder": str(self.folder),
                    "launcher": options if processes else [],
                    "words": words,
                    "orders": self.orders.text(),
                }
            )
            return self
        before = [sys.executable]
        if processes:
            before += ["-m", "torch.distributed.run", *options]
        self._start_program([*before, str(PROGRAM), "rank", *words])
        return self

    def _start_program(self, words: list[str]) -> None:
        with (self.folder / "stdout").open("w") as out, (self.folder / "stderr").open("w") as err:
            program = subprocess.Popen(
                words,
                cwd=self.folder,
                env=os.environ | {"OMP_NUM_THREADS": "1", "EFFDET_JOB": self.orders.text()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

        def leave_word() -> None:
            code = program.wait()
            text = json.dumps({"code": code, "time": time.time()})
            (self.folder / "ended").write_text(text)

        threading.Thread(target=leave_word, daemon=True).start()
        self.pid = program.pid

    # ---- what it does

    @property
    def end(self) -> tuple[int, float] | None:
        """Exit code and time of the end; None while it runs."""
        try:
            found = json.loads((self.folder / "ended").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return int(found["code"]), float(found["time"])

    def wait(self, seconds: float = 180) -> int:
        """The exit code, once it has ended."""
        await_(lambda: self.end is not None, seconds, f"the end of {self.folder.name}", self)
        assert self.end is not None
        return self.end[0]

    def phase(self, rank: int) -> tuple[int, str]:
        """Process id of a rank and what it does; ``(0, "")`` before it has begun."""
        try:
            pid, _, text = (self.folder / f"phase-{rank}").read_text().strip().partition(" ")
        except FileNotFoundError:
            return 0, ""
        return int(pid or 0), text

    def await_phase(self, start: str, seconds: float = 180) -> None:
        """Wait until rank 0 is in a phase whose name begins with ``start``."""

        def reached() -> bool:
            assert self.end is None, f"ended before {start!r}: {self.stderr}"
            return self.phase(0)[1].startswith(start)

        await_(reached, seconds, f"{start!r} in {self.folder.name}", self)

    @property
    def stderr(self) -> str:
        """All that it has written there."""
        return (self.folder / "stderr").read_text(errors="replace")

    @property
    def status(self) -> dict[str, Any]:
        """``status.json``."""
        found: dict[str, Any] = json.loads((self.run / "status.json").read_text())
        return found

    # ---- its processes

    def processes(self) -> dict[int, int]:
        """Those that live: process id and that of the parent."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "cwd").readlink() == self.folder:
                        fields = (entry / "stat").read_text().rpartition(")")[2].split()
                        if fields[0] not in "ZX":
                            found[int(entry.name)] = int(fields[1])
        return found

    def targets(self, target: str, last: bool = False) -> list[int]:
        """The process ids that a target means: agent, rank 0, rank 1, worker or group.

        Args:
            target: ``worker`` is one of rank 1.
            last: take the worker that was started last, of two that are there.
        """
        living = self.processes()
        if target == "agent":
            found = [self.pid]
        elif target == "group":
            found = sorted(living)
        elif target == "worker":
            parent = self.phase(1)[0] or self.phase(0)[0]
            found = sorted(pid for pid, its_parent in living.items() if its_parent == parent)
            found = found[-1:] if last else found[:1]
        else:
            found = [self.phase(int(target[-1]))[0]]
        return [pid for pid in found if pid in living]

    def send(self, number: int, target: str, last: bool = False) -> float | None:
        """Send a signal; the time when that was done, None where nobody was there."""
        pids = self.targets(target, last)
        if number == signal.SIGKILL:
            for pid in pids:  # none may react to the death of another
                _kill(pid, signal.SIGSTOP)
        for pid in pids:
            _kill(pid, number)
        return time.time() if pids else None

    def orphans(self, seconds: float = 1.0) -> dict[int, int]:
        """Processes that live ``seconds`` after the end."""
        end = time.monotonic() + seconds
        while (living := self.processes()) and time.monotonic() < end:
            time.sleep(0.02)
        return living

    def clear(self) -> None:
        """End every process, now."""
        for _ in range(20):
            living = self.processes()
            if not living:
                return
            for pid in living:
                _kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def await_(happens: Callable[[], bool], seconds: float, what: str, job: Job) -> None:
    """Wait for something, at most so long."""
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            phases = [job.phase(rank)[1] for rank in (0, 1)]
            raise AssertionError(
                f"no {what} within {seconds:g} s; phases {phases}; stderr: {job.stderr}"
            )
        time.sleep(0.01)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# ---- what it leaves


def digest(path: Path) -> str:
    """SHA-256 of all that is the same in two runs that did the same."""
    hasher = hashlib.sha256()
    for part in parts(result(path)):
        hasher.update(part)
    return hasher.hexdigest()


def result(path: Path) -> dict[str, Any]:
    """What is in a checkpoint but for clocks."""
    values = torch.load(path, weights_only=True)
    training = dict(values["training"])
    training.pop("config")
    training["history"] = [without_clocks(row) for row in training["history"]]
    training["ranks"] = [
        {"random": rank["random"], "sums": rank["meter"]["sums"], "names": rank["meter"]["names"]}
        for rank in training["ranks"]
    ]
    return {**values, "training": training}


def without_clocks(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the history without its times."""
    return {name: value for name, value in row.items() if name not in NO_PART_OF_A_RESULT}


def differing(first: Any, second: Any, name: str = "") -> list[str]:
    """Names of the entries that two results do not have in common."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = sorted({*first, *second}, key=str)
        found = [differing(first.get(k), second.get(k), f"{name}.{k}") for k in keys]
        return [name for names in found for name in names]
    nested = isinstance(first, list) and any(isinstance(item, list | Mapping) for item in first)
    if nested and isinstance(second, list) and len(first) == len(second):
        found = [differing(a, b, f"{name}[{i}]") for i, (a, b) in enumerate(zip(first, second))]
        return [name for names in found for name in names]
    return [] if b"".join(parts(first)) == b"".join(parts(second)) else [name]


def parts(value: Any) -> Iterator[bytes]:
    """The bytes of nested plain values and tensors, in an order that does not depend on dicts."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {list(value.shape)}".encode()
        yield value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key!r}:".encode()
            yield from parts(value[key])
    elif isinstance(value, list | tuple):
        yield b"["
        for item in value:
            yield from parts(item)
        yield b"]"
    else:
        yield f"{value!r};".encode()


def saved_step(path: Path) -> int:
    """The step of a checkpoint that loads; checks the digest of the file."""
    from effdet.weights import load_checkpoint

    return int(load_checkpoint(path).training["step"])
