# SPDX-License-Identifier: Apache-2.0
"""Processes that prepare samples: what they do with signals, and what is told when one fails.

By itself torch loses the name of the image that a worker died or hangs at, waits for ever for an
error that cannot be pickled, raises in the middle of whatever the main process does when a worker
dies, and lets the workers die of the SIGTERM on which the main process only wants to save.
"""

import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from effdet.data.sampler import Key
from effdet.errors import DataError, one_line
from effdet.processes import die_with_parent

Result = TypeVar("Result")

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_DEATH_NOTICE_SECONDS = 1.0
"""A broken connection to a dead worker may be seen before its death."""


def start_worker(worker_id: int) -> None:
    """Set a worker up (``worker_init_fn``): it ends with the main process, and only then.

    SIGINT, SIGTERM and SIGHUP of a whole process group are for the main process, which still needs
    batches until its state is saved. On Linux a worker ends with the thread that started it, so
    the first pass over a loader must not be begun in a thread that ends before the last.
    """
    for number in _ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
    main = multiprocessing.parent_process()
    forked_by_server = multiprocessing.get_start_method() == "forkserver"
    die_with_parent(None if main is None or forked_by_server else main.pid)


@contextmanager
def ending_signals_held() -> Iterator[None]:
    """Hold the signals that end a run back while workers are started.

    A new worker inherits that, so that none reaches it before :func:`start_worker` ignores them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WatchedDataset(Dataset[Any]):
    """The samples of ``dataset``, or a DataError in the place of one that cannot be made.

    An error is handed over and not raised, because torch makes a traceback text of it, and never
    delivers one that cannot be pickled. In a worker, ``slots`` tells which image it is at.
    """

    def __init__(
        self, dataset: Dataset[Any], path: Callable[[int], Path], slots: Tensor | None
    ) -> None:
        """Wrap ``dataset``.

        Args:
            dataset: samples by :class:`~effdet.data.sampler.Key`.
            path: image file of an index.
            slots: of :class:`Workers`; None without workers.
        """
        self.dataset, self.path, self.slots = dataset, path, slots

    def __getitem__(self, key: Key) -> Any:
        worker = get_worker_info()
        if worker is not None and self.slots is not None:
            self.slots[worker.id] = key.image + 1
        try:
            return self.dataset[key]
        except Exception as error:
            return as_data_error(error, str(self.path(key.image)), "cannot make a sample of it")
        finally:
            if worker is not None and self.slots is not None:
                self.slots[worker.id] = -(key.image + 1)


def as_data_error(error: Exception, place: str, failure: str) -> DataError:
    """``error`` as one that travels between processes and says where it came from.

    In a worker with EFFDET_DEBUG=1 its traceback, which cannot travel, is printed here.
    """
    if get_worker_info() is not None and os.environ.get("EFFDET_DEBUG") == "1":
        traceback.print_exception(error)
        sys.stderr.flush()
    if type(error) is DataError:
        return error
    text = one_line(error)
    told = DataError(f"{place}: {failure}: {type(error).__name__}{': ' + text if text else ''}")
    told.__cause__ = error  # not pickled; without workers --debug shows it
    return told


class Workers:
    """The worker processes of one loader: which image each is at, and what became of them.

    Attributes:
        slots: ``[num_workers]`` int64 in shared memory: 1 + index of the image that a worker
            prepares; negative once it is done with it; 0 before its first.
        processes: filled when they are started.
        kill: ends the workers at once, who hold nothing that would be lost; called when this
            object or this process ends.
    """

    def __init__(self, num_workers: int, path: Callable[[int], Path]) -> None:
        """Make the slots.

        Args:
            num_workers: number of worker processes.
            path: image file of an index.
        """
        self.slots = torch.zeros(num_workers, dtype=torch.int64).share_memory_()
        self.processes: list[multiprocessing.process.BaseProcess] = []
        self._path = path
        # Workers ignore the SIGTERM by which multiprocessing ends them before it waits for them,
        # so one that hangs would keep this process from ending. A fork of it ends none.
        self.kill = Finalize(self, _kill, args=(self.processes,), exitpriority=10)

    def wait_for(self, batch: Callable[[], Result], timeout: float) -> Result:
        """Call ``batch``, which waits for what the workers do.

        Once it has failed the workers are ended, and the loader is of no more use.

        Args:
            batch: gives the next batch.
            timeout: seconds after which torch gives up, for the message.

        Raises:
            DataError: where a worker died, now or since the last call, or none delivered in time;
                it names the image that the worker was at.
        """
        try:
            # Not a context manager: one would let a death through on its way out.
            if _in_main_thread():
                _DEATHS.waiting = self
            try:
                if self.has_dead():
                    raise self._death()
                return batch()
            finally:
                _DEATHS.waiting = None
        except DataError:
            self.kill()
            raise
        except (RuntimeError, OSError, EOFError) as error:
            if str(error).startswith("DataLoader timed out"):
                told = self._hang(timeout)
            elif self._find_dead():
                told = self._death()
            else:
                raise
            self.kill()
            raise told from error

    def has_dead(self) -> bool:
        """Whether a worker has ended."""
        return not all(process.is_alive() for process in self.processes)

    def _find_dead(self) -> bool:
        end = time.monotonic() + _DEATH_NOTICE_SECONDS
        while not self.has_dead():
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True

    def _death(self) -> DataError:
        worker, process = next((k, p) for k, p in enumerate(self.processes) if not p.is_alive())
        name, code = f"loader worker {worker} (pid {process.pid})", process.exitcode or 0
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        slot, advice = int(self.slots[worker]), _ADVICE.get(_signal_name(-code), _DAMAGED)
        if slot > 0:
            text = f"{self._path(slot - 1)}: {name} {how} at this image; {advice}"
        elif slot < 0:
            text = f"{name} {how} after image {self._path(-slot - 1)}; {advice}"
        else:
            text = f"{name} {how} before its first image; {advice}"
        return DataError(f"{text}; --workers 0 reads the images in the main process")

    def _hang(self, timeout: float) -> DataError:
        at = [
            f"{self._path(slot - 1)} (pid {process.pid})"
            for slot, process in zip(self.slots.tolist(), self.processes, strict=True)
            if slot > 0
        ]
        return DataError(
            f"the loader workers gave no batch for {timeout:g} seconds; images in work: "
            f"{', '.join(at) or 'none'}; is their disk or network gone, or an image damaged? "
            "give a longer --timeout if the work takes so long"
        )


_DAMAGED = "is the image damaged, so that its decoder fails?"
_ADVICE = {
    "SIGKILL": "has the memory run out? use fewer --workers or a smaller --batch-size",
    "SIGBUS": "is the shared memory (/dev/shm) full? use fewer --workers or enlarge it",
}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Deaths:
    """SIGCHLD handler around torch's: a worker's death raises only where its batch is waited for.

    Torch's own raises in the main thread wherever it is, in the middle of a checkpoint too.
    A death that is held back here is found when that loader's next batch is asked for.

    Attributes:
        waiting: the workers that the main thread waits for.
    """

    def __init__(self) -> None:
        self.waiting: Workers | None = None
        self._torch_handler: Callable[[int, FrameType | None], Any] | None = None

    def install(self) -> None:
        """Wrap torch's handler, which is there once it has started workers."""
        if self._torch_handler is None and hasattr(signal, "SIGCHLD") and _in_main_thread():
            handler = signal.getsignal(signal.SIGCHLD)
            if callable(handler):
                self._torch_handler = handler
                signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        assert self._torch_handler is not None
        try:
            self._torch_handler(number, frame)
        except RuntimeError:
            if self.waiting is not None and self.waiting.has_dead():
                raise


_DEATHS = _Deaths()


def hold_back_deaths() -> None:
    """Let a worker's death disturb nothing but the wait for its batch; call it after a start."""
    _DEATHS.install()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _kill(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.kill()
