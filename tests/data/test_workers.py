# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effdet.data.coco import CocoDataset
from effdet.data.loader import Loader, build_eval_loader
from effdet.data.transforms import Transform
from effdet.data.workers import ending_signals_held
from effdet.errors import DataError
from effdet.structures import Target
from tests.test_processes import ROOT, ends_within, linux

Sample = tuple[Tensor, Target]


@pytest.fixture
def coco(make: Callable[..., CocoDataset]) -> CocoDataset:
    """24 images; number k has the id 100 + k and the file k.png."""
    images = [
        {"id": 100 + k, "file_name": f"{k}.png", "width": 16, "height": 16} for k in range(24)
    ]
    return make({"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]})


def at_image_20(act: Callable[[], object]) -> Transform:
    """A transform that calls ``act`` at image 20."""

    def transform(image: Tensor, target: Target, generator: np.random.Generator) -> Sample:
        if target.image_id == 120:
            act()
        return image.float(), target

    return transform


def load(coco: CocoDataset, act: Callable[[], object], workers: int, timeout: float = 0) -> Loader:
    return build_eval_loader(
        coco, at_image_20(act), batch_size=4, num_workers=workers, timeout=timeout
    )


def error_of(loader: Loader) -> str:
    """The one line that a pass ends with."""
    with pytest.raises(DataError) as caught:
        for _ in loader:
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pids(loader: Loader) -> list[int]:
    assert loader._workers is not None
    return [process.pid or 0 for process in loader._workers.processes]


@contextmanager
def forked(program: Callable[[Connection], None]) -> Iterator[tuple[int, Connection]]:
    """A process in a group of its own that runs ``program``; its pid and what it sends."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()

    def main() -> None:
        os.setsid()
        program(theirs)

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    theirs.close()
    assert process.pid is not None
    try:
        yield process.pid, ours
        process.join(20)
        assert process.exitcode is not None, "it must end"
    finally:
        process.kill()
        process.join()


def receive(connection: Connection) -> Any:
    assert connection.poll(20)
    return connection.recv()


# Exceptions.
class _UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("first line\nsecond line")
        self.lock = open  # what cannot be pickled
        self.cell = lambda: 0


def _raise_local() -> None:
    class LocalError(Exception):
        pass

    raise LocalError("of no importable class")


def _raise_unpicklable() -> None:
    raise _UnpicklableError


def _raise_memory_error() -> None:
    raise MemoryError


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(
    ("act", "text"),
    [
        (_raise_local, "LocalError: of no importable class"),
        (_raise_unpicklable, "_UnpicklableError: first line second line"),
        (_raise_memory_error, "MemoryError"),
    ],
)
def test_any_exception_names_the_image(
    coco: CocoDataset, act: Callable[[], None], text: str, workers: int
) -> None:
    message = error_of(load(coco, act, workers, timeout=20))
    assert message == f"{coco.path(20)}: cannot make a sample of it: {text}"


def test_without_workers_the_cause_is_kept_for_its_traceback(coco: CocoDataset) -> None:
    with pytest.raises(DataError) as caught:
        list(load(coco, _raise_memory_error, 0))
    assert isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize("debug", [True, False])
def test_a_worker_prints_its_traceback_when_asked(
    coco: CocoDataset,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EFFDET_DEBUG", "1" if debug else "0")
    error_of(load(coco, _raise_memory_error, 1))
    assert ("in _raise_memory_error" in capfd.readouterr().err) == debug


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_make_no_batch_are_named(coco: CocoDataset, workers: int) -> None:
    def transform(image: Tensor, target: Target, generator: np.random.Generator) -> Sample:
        return torch.zeros(3, target.image_id, 1), target

    message = error_of(
        build_eval_loader(coco, transform, batch_size=2, num_workers=workers, timeout=20)
    )
    assert message.startswith("images with the ids 100, 101: cannot make a batch of them: Runtime")
    assert "equal size" in message


@linux
def test_shared_memory_that_cannot_be_had_is_told(coco: CocoDataset) -> None:
    import resource

    def forbid_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    message = error_of(load(coco, forbid_files, 1, timeout=20))
    assert message.startswith(
        "images with the ids 120, 121, 122, 123: no shared memory for them (/dev/shm: enlarge it, "
        "or use fewer --workers): RuntimeError: "
    )


# Deaths.
DAMAGED = "is the image damaged, so that its decoder fails?"
MEMORY = "has the memory run out? use fewer --workers or a smaller --batch-size"
SHARED = "is the shared memory (/dev/shm) full? use fewer --workers or enlarge it"


@linux
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("number", "advice"),
    [(signal.SIGKILL, MEMORY), (signal.SIGSEGV, DAMAGED), (signal.SIGBUS, SHARED)],
)
def test_a_killed_worker_is_told_with_its_image_and_signal(
    coco: CocoDataset, number: signal.Signals, advice: str, workers: int
) -> None:
    loader = load(coco, lambda: os.kill(os.getpid(), number), workers)
    start = time.monotonic()
    message = error_of(loader)
    assert time.monotonic() - start < 4
    worker = 5 % workers  # the batch of image 20 is number 5
    assert message == (
        f"{coco.path(20)}: loader worker {worker} (pid {pids(loader)[worker]}) was killed by "
        f"{number.name} at this image; {advice}; --workers 0 reads the images in the main process"
    )
    assert all(ends_within(pid, 1) for pid in pids(loader))


@linux
def test_a_worker_that_ends_itself_is_told_with_its_code(coco: CocoDataset) -> None:
    message = error_of(load(coco, lambda: os._exit(3), 1))
    assert f"ended with code 3 at this image; {DAMAGED}" in message


@linux
def test_a_death_between_images_names_the_one_before(coco: CocoDataset) -> None:
    loader = load(coco, lambda: None, 1)
    batches = list(loader)
    assert len(batches) == 6
    os.kill(pids(loader)[0], signal.SIGKILL)
    assert ends_within(pids(loader)[0], 1)
    start = time.monotonic()
    message = error_of(loader)
    assert time.monotonic() - start < 2, "before torch looks for it, which is every five seconds"
    assert message.startswith(
        f"loader worker 0 (pid {pids(loader)[0]}) was killed by SIGKILL after image "
        f"{coco.path(23)}; {MEMORY}"
    )


@linux
def test_a_death_disturbs_nothing_but_the_wait_for_a_batch(coco: CocoDataset) -> None:
    """Torch's own handler raises in whatever the main process does: a step, a checkpoint."""
    loader = load(coco, lambda: None, 2)
    batches = iter(loader)
    next(batches)
    os.kill(pids(loader)[1], signal.SIGKILL)
    saved = 0
    for _ in range(20):
        time.sleep(0.01)
        saved += 1
    assert saved == 20
    with pytest.raises(DataError, match="was killed by SIGKILL"):
        next(batches)


@linux
def test_a_death_in_one_loader_disturbs_no_other(coco: CocoDataset) -> None:
    """As when a training worker, idle meanwhile, is killed during the validation."""
    idle = load(coco, lambda: None, 1)
    assert len(list(idle)) == 6

    def kill_the_other() -> None:
        os.kill(pids(idle)[0], signal.SIGKILL)
        time.sleep(0.3)

    assert len(list(load(coco, kill_the_other, 1))) == 6
    assert "was killed by SIGKILL after image" in error_of(idle)


@linux
def test_worker_deaths_at_random_moments_are_always_told(coco: CocoDataset) -> None:
    draws = np.random.default_rng(5)
    told = 0
    for _ in range(6):
        loader = load(coco, lambda: time.sleep(0.01), 2)
        try:
            batches = iter(loader)
            next(batches)
            time.sleep(draws.uniform(0, 0.02))
            os.kill(pids(loader)[draws.integers(2)], signal.SIGKILL)
            for _ in batches:
                pass
        except DataError as error:
            told += "was killed by SIGKILL" in str(error)
        else:
            told += 1  # all batches were there before it died
    assert told == 6, "seed 5"


# Hangs.
@linux
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_hangs_is_told_with_its_image(coco: CocoDataset, workers: int) -> None:
    loader = load(coco, lambda: time.sleep(60), workers, timeout=0.5)
    start = time.monotonic()
    message = error_of(loader)
    assert time.monotonic() - start < 4
    assert message == (
        "the loader workers gave no batch for 0.5 seconds; images in work: "
        f"{coco.path(20)} (pid {pids(loader)[5 % workers]}); is their disk or network gone, or an "
        "image damaged? give a longer --timeout if the work takes so long"
    )
    assert all(ends_within(pid, 1) for pid in pids(loader))


@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_limit_slow_images_are_waited_for(coco: CocoDataset, workers: int) -> None:
    assert len(list(load(coco, lambda: time.sleep(0.5), workers, timeout=0))) == 6
    assert len(list(load(coco, lambda: None, workers, timeout=20))) == 6


@linux
def test_a_program_ends_though_a_worker_hangs(coco: CocoDataset) -> None:
    code = f"""
import time
from effdet.data.coco import CocoDataset
from effdet.data.loader import build_eval_loader
coco = CocoDataset({str(coco.annotations)!r}, {str(coco.images)!r})
def transform(image, target, generator):
    if target.image_id == 120:
        time.sleep(60)
    return image.float(), target
loader = build_eval_loader(coco, transform, batch_size=4, num_workers=1)
batches = iter(loader)
for _ in range(5):
    next(batches)
print(loader._workers.processes[0].pid)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ends_within(int(done.stdout), 1)


@linux
def test_a_child_process_ends_though_its_worker_hangs(coco: CocoDataset) -> None:
    def program(connection: Connection) -> None:
        loader = load(coco, lambda: time.sleep(60), 1)
        batches = iter(loader)
        for _ in range(5):
            next(batches)
        connection.send(pids(loader))

    with forked(program) as (_, connection):
        (worker,) = receive(connection)
    assert ends_within(worker, 1)


@linux
def test_a_loader_that_is_not_needed_any_more_takes_its_workers_along(coco: CocoDataset) -> None:
    loader = load(coco, lambda: time.sleep(60), 1)
    batches = iter(loader)
    next(batches)
    (worker,) = pids(loader)
    start = time.monotonic()
    del loader, batches
    assert ends_within(worker, 1)
    assert time.monotonic() - start < 2


# Signals.
@linux
def test_signals_of_the_whole_group_leave_the_workers_alive(coco: CocoDataset) -> None:
    def program(connection: Connection) -> None:
        seen: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: seen.append(number))
        batches = iter(load(coco, lambda: time.sleep(0.3), 2))
        count = len(next(batches))
        connection.send("ready")
        count += sum(len(batch) for batch in batches)
        connection.send((count, seen))

    with forked(program) as (pid, connection):
        assert receive(connection) == "ready"
        for number in (signal.SIGTERM, signal.SIGINT):
            os.killpg(pid, number)
            time.sleep(0.05)
        assert receive(connection) == (24, [signal.SIGTERM, signal.SIGINT])


@linux
def test_a_killed_main_process_leaves_no_worker_behind(coco: CocoDataset) -> None:
    def program(connection: Connection) -> None:
        loader = load(coco, lambda: time.sleep(60), 2)
        batches = iter(loader)
        next(batches)
        connection.send(pids(loader))
        time.sleep(60)

    with forked(program) as (pid, connection):
        workers = receive(connection)
        assert len(workers) == 2
        os.kill(pid, signal.SIGKILL)
        assert all(ends_within(worker, 1) for worker in workers)


@linux
def test_ending_signals_wait_until_the_workers_are_set_up() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with ending_signals_held():
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            time.sleep(0.01)
            assert seen == []
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@linux
def test_a_worker_ignores_the_signals_and_has_them_unblocked(coco: CocoDataset) -> None:
    def ask(image: Tensor, target: Target, generator: np.random.Generator) -> Sample:
        numbers = (signal.SIGINT, signal.SIGTERM)
        ignored = [signal.getsignal(number) is signal.SIG_IGN for number in numbers]
        blocked = [number in signal.pthread_sigmask(signal.SIG_BLOCK, ()) for number in numbers]
        return torch.tensor([ignored, blocked]).float()[None], target

    (batch, *_) = build_eval_loader(coco, ask, batch_size=24, num_workers=1)
    assert batch.images[0, 0].tolist() == [[1.0, 1.0], [0.0, 0.0]]
