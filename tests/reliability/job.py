# SPDX-License-Identifier: Apache-2.0
"""train.py as small jobs: a tiny model, faults on order, and no time lost at the start.

python tests/reliability/job.py serve
    reads requests, a line of JSON each, and starts a job for each; it imports torch only once
python tests/reliability/job.py rank WORDS...
    train.py WORDS with the orders of EFFDET_JOB; torchrun may start it like any program

A job of the server is torchrun itself, forked from the server instead of started anew, and its
ranks are forked where it would start programs. Everything else is torch's own: agent, store,
signals, error files. The working folder of all processes of a job is the job's folder.
"""

import atexit
import contextlib
import errno
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

ROOT = Path(__file__).parents[2]
ORDERS = "EFFDET_JOB"
PHASE_BYTES = 32
FOREVER = 1000.0


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What is done to a job.

    Attributes:
        infinite: steps whose loss is infinite on rank 1.
        scaler: whether the loss is scaled; without it infinite gradients are skipped as well.
        save_steps: steps between checkpoints in an epoch, 0 for none.
        slow: seconds that each step, save and batch of a validation take longer.
        slow_from: step from which ``slow`` holds.
        fault: what rank 1 does in step ``fault_step``, or its loader worker at that image.
        fault_step: counted from 1, as the images.
        fault_after_restart: whether ``fault`` happens again where torchrun restarts the ranks.
        full: saves, counted from 1, that find the disk full.
    """

    infinite: tuple[int, ...] = ()
    scaler: bool = True
    save_steps: int = 3
    slow: tuple[float, float, float] = (0.0, 0.0, 0.0)
    slow_from: int = 0
    fault: str = ""
    fault_step: int = 5
    fault_after_restart: bool = False
    full: tuple[int, ...] = ()

    def text(self) -> str:
        """As it travels in the environment."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls) -> "Orders":
        """The orders of this process."""
        values = json.loads(os.environ[ORDERS])
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


# ---- in a rank


def add_tiny_model() -> None:
    """A model of 46,000 parameters with residual blocks that stochastic depth leaves out."""
    from effdet.config import BACKBONES, MODELS, BackboneConfig

    BACKBONES["tiny"] = BackboneConfig(name="tiny", width=0.1, depth=0.5, dropout=0.0, lite=True)
    MODELS["tiny"] = replace(
        MODELS["efficientdet_lite0"], name="tiny", backbone="tiny", image_size=(64, 64), width=8,
        bifpn_cells=1, head_repeats=1, max_level=5, survival_prob=0.5,
    )  # fmt: skip


class Phase:
    """Says in ``phase-RANK`` of the working folder which process it is and what it does."""

    def __init__(self) -> None:
        rank = os.environ.get("RANK", "0")
        self.file = os.open(f"phase-{rank}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.now = ""
        self.set("start")

    def set(self, text: str) -> str:
        """Say ``text``; what it was before."""
        before, self.now = self.now, text
        os.pwrite(self.file, f"{os.getpid()} {text}".encode().ljust(PHASE_BYTES), 0)
        return before

    @contextlib.contextmanager
    def during(self, text: str, seconds: float) -> Iterator[None]:
        """Say ``text`` for as long as the block lasts, at least ``seconds``."""
        before = self.set(text)
        end = time.monotonic() + seconds
        try:
            yield
            time.sleep(max(end - time.monotonic(), 0))
        finally:
            self.set(before)


def rank(words: list[str]) -> None:
    """``train.py WORDS`` under the orders of the environment."""
    import train

    add_tiny_model()
    orders, phase = Orders.read(), Phase()
    patch_training(orders, phase)
    patch_saves(orders, phase)
    patch_validation(orders, phase)
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if orders.fault and (orders.fault_after_restart or not restarted):
        patch_loading(orders)
    sys.argv = ["train.py", *words]
    try:
        train.run(train.with_errors_for_launcher(train.main), "train.py", train.report_to_launcher)
    finally:
        phase.set("end")


def patch_training(orders: Orders, phase: Phase) -> None:
    """Slow steps, infinite losses, checkpoints by steps, and faults of rank 1."""
    import torch

    import train
    from effdet import distributed
    from effdet.training import build

    steps = 0

    class Trainer(build.Trainer):
        def train_step(self, batches: Any) -> Any:
            nonlocal steps
            steps += 1
            number = self.step + 1
            phase.set("between steps")
            seconds = orders.slow[0] if number >= orders.slow_from else 0.0
            with phase.during(f"step {number}", seconds):
                if number == orders.fault_step and distributed.rank() == 1:
                    misbehave(orders)
                self.criterion.infinite = number in orders.infinite and distributed.rank() == 1
                return super().train_step(batches)

    class Loss(build.DetectionLoss):
        infinite = False

        def __call__(self, *arguments: Any) -> Any:
            losses = super().__call__(*arguments)
            return {k: v * float("inf") if self.infinite else v for k, v in losses.items()}

    class Control(train.Control):
        def __init__(self, save_minutes: float) -> None:
            super().__init__(orders.save_steps / 60, clock=lambda: float(steps))

    build.Trainer = Trainer  # type: ignore[misc]
    build.DetectionLoss = Loss  # type: ignore[misc]
    train.Control = Control  # type: ignore[misc]
    if orders.scaler:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        build.build_scaler = lambda device, dtype: scaler  # type: ignore[assignment]


def misbehave(orders: Orders) -> None:
    """What happens to rank 1 itself."""
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if restarted and not orders.fault_after_restart:
        return
    if not orders.fault.startswith("worker"):
        Path("fault").write_text(orders.fault)
    if orders.fault == "raise":
        raise RuntimeError("the fault that was ordered")
    if orders.fault == "data":
        from effdet.errors import DataError

        raise DataError("an image.png that was ordered to be broken")
    if orders.fault == "exit":
        os._exit(0)
    if orders.fault == "sleep":
        time.sleep(FOREVER)
    if orders.fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


class UnpicklableError(Exception):
    """Holds what cannot go from a worker to the main process."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.reason = lambda: text


def patch_loading(orders: Orders) -> None:
    """Faults of a loader worker of rank 1, at the image of number ``fault_step`` in its work."""
    from effdet.data import CocoDataset

    load, count = CocoDataset.load, 0

    def faulty(self: CocoDataset, index: int, **options: Any) -> Any:
        nonlocal count
        count += 1
        if os.environ.get("RANK") == "1" and count == orders.fault_step:
            if orders.fault.startswith("worker"):
                Path("fault").write_text(str(self.path(index)))
            if orders.fault == "worker killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if orders.fault == "worker unpicklable":
                raise UnpicklableError("the fault that was ordered")
            if orders.fault == "worker hangs":
                time.sleep(FOREVER)
        return load(self, index, **options)

    CocoDataset.load = faulty  # type: ignore[method-assign]


def patch_saves(orders: Orders, phase: Phase) -> None:
    """Saves that take long before they are safe, or find the disk full."""
    import effdet.weights.checkpoint as module
    from effdet.training import Checkpointer

    save, write_atomically, count = Checkpointer.save, module.write_atomically, 0

    def save_in_phase(self: Checkpointer, trainer: Any, *arguments: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        with phase.during(f"save {trainer.step}", 0.0):
            save(self, trainer, *arguments, **named)

    def slow_write(path: Path, write: Callable[[BinaryIO], object], **named: Any) -> None:
        def write_slowly(file: BinaryIO) -> None:
            if count in orders.full:
                file.write(b"the first bytes")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(file)
            file.flush()
            time.sleep(orders.slow[1])

        write_atomically(path, write_slowly, **named)

    Checkpointer.save = save_in_phase  # type: ignore[method-assign, assignment]
    module.write_atomically = slow_write  # type: ignore[assignment]


def patch_validation(orders: Orders, phase: Phase) -> None:
    """Validations that take long."""
    from effdet.training import validation

    evaluate = validation.evaluate

    def slow_evaluate(*arguments: Any, poll: Callable[[], None], **named: Any) -> Any:
        def slow_poll() -> None:
            poll()
            time.sleep(orders.slow[2])

        with phase.during("validation", 0.0):
            return evaluate(*arguments, poll=slow_poll, **named)

    validation.evaluate = slow_evaluate


# ---- the server


class ForkedProgram(subprocess.Popen):  # type: ignore[type-arg]
    """A rank that torchrun starts: a fork in the state that a new program would begin in."""

    def _execute_child(self, *arguments: Any) -> None:
        words, environment = list(arguments[0]), arguments[6]
        self.pid = os.fork()
        if self.pid:
            self._child_created = True
            return
        os.setsid()
        os.closerange(3, 4096)
        os.environ.clear()
        os.environ.update(environment)
        end_as_program(lambda: rank(words[words.index("rank") + 1 :]))


def end_as_program(main: Callable[[], None]) -> NoReturn:
    """Run ``main`` in a fork as if it were a program of its own."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code or 0)


def start_job(request: dict[str, Any]) -> None:
    """In a fork of the server: become the job."""
    os.setsid()
    os.chdir(request["folder"])
    for number, name, mode in (
        (0, os.devnull, os.O_RDONLY),
        (1, "stdout", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        descriptor = os.open(name, mode, 0o666)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ[ORDERS] = request["orders"]
    if not request["launcher"]:
        rank(request["words"])
        return
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = ForkedProgram  # type: ignore[misc]
    # As the real one names itself in its messages and restarts.
    program = ["--no-python", sys.executable, str(Path(__file__)), "rank"]
    run.main([*request["launcher"], *program, *request["words"]])


def serve() -> None:
    """Start the jobs that are asked for, and leave word in their folders when they have ended."""
    import torch
    import torch._dynamo  # what making an optimizer imports, and most of a start
    import torch.distributed.run

    import train

    assert torch.get_num_threads() == 1, "a fork has no other threads: set OMP_NUM_THREADS=1"
    assert train.main is not None
    jobs: dict[int, str] = {}
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        if readable:
            line = read_line(0)
            if not line:
                return
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                os.closerange(3, 4096)
                end_as_program(functools.partial(start_job, request))
            jobs[pid] = request["folder"]
            print(pid, flush=True)
        reap(jobs)


def read_line(descriptor: int) -> bytes:
    """A line without reading ahead, so that select() tells of the next one."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            return b""
        line += byte
    return line


def reap(jobs: dict[int, str]) -> None:
    """Write ``ended`` into the folders of jobs that have."""
    while jobs:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        folder = Path(jobs.pop(pid))
        text = json.dumps({"code": os.waitstatus_to_exitcode(status), "time": time.time()})
        # The folder may be gone: a test has ended and cleaned up.
        with contextlib.suppress(OSError):
            (folder / ".ended").write_text(text)
            (folder / ".ended").rename(folder / "ended")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    assert {field.name for field in fields(Orders)}
    if sys.argv[1] == "serve":
        serve()
    else:
        rank(sys.argv[2:])
