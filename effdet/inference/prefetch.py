# SPDX-License-Identifier: Apache-2.0
"""Work done in threads ahead of the one who needs its results; never more than a few of them."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def map_ahead(
    function: Callable[[Given], Made], items: Iterable[Given], workers: int, ahead: int
) -> Iterator[Made]:
    """``map(function, items)`` in the same order, computed by threads before it is asked for.

    Args:
        function: called in ``workers`` threads at once.
        items: what it is called with.
        workers: threads; 0 calls it here, when its result is asked for.
        ahead: results that wait or are being made, at most.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="effdet-read")
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def iterate_ahead(items: Iterable[Made], ahead: int, *, drop: bool = False) -> Iterator[Made]:
    """``items`` in their order, each made by a thread before it is asked for.

    Args:
        items: iterated in the thread; what it raises is raised here, after what came before.
        ahead: items that wait at most.
        drop: let the oldest waiting item go where there is no room, as for a camera's frames.
    """
    channel = _Channel[Made](ahead, drop)
    thread = threading.Thread(target=channel.fill, args=(items,), daemon=True, name="effdet-read")
    thread.start()
    try:
        yield from channel
    finally:
        channel.close()


class _Channel(Iterable[Made]):
    """A queue with an end, which either side can reach first."""

    def __init__(self, size: int, drop: bool) -> None:
        self._queue: queue.Queue[Made | _End] = queue.Queue(size)
        self._drop = drop
        self._closed = threading.Event()

    def fill(self, items: Iterable[Made]) -> None:
        end = _End(None)
        iterator = iter(items)
        try:
            for item in iterator:
                if not self._put(item):
                    break
        except BaseException as error:  # it belongs to whoever reads
            end = _End(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            self._put(end)

    def _put(self, item: "Made | _End") -> bool:
        """Whether there was still anybody to take it."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0 if self._is_dropping(item) else 0.1)
            except queue.Full:
                if self._is_dropping(item):
                    self._let_go()
            else:
                return True
        return False

    def _is_dropping(self, item: "Made | _End") -> bool:
        return self._drop and not isinstance(item, _End)

    def _let_go(self) -> None:
        try:
            self._queue.get_nowait()
        except queue.Empty:
            return

    def __iter__(self) -> Iterator[Made]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def close(self) -> None:
        self._closed.set()


class _End:
    """The end of a channel and, where there was one, the error that it came with."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
