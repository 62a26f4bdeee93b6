# SPDX-License-Identifier: Apache-2.0
import threading
import time
from collections.abc import Iterator

import pytest

from effdet.inference.prefetch import iterate_ahead, map_ahead


def wait_until(holds: object) -> None:
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.005)
    assert holds()  # type: ignore[operator]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers: int) -> None:
    def slow_first(n: int) -> int:
        time.sleep(0.02 if n == 0 else 0)
        return n * n

    assert list(map_ahead(slow_first, range(7), workers, 4)) == [n * n for n in range(7)]
    assert list(map_ahead(slow_first, [], workers, 4)) == []


def test_only_a_few_are_made_ahead() -> None:
    made: list[int] = []
    results = map_ahead(made.append, range(100), 2, 5)
    next(results)
    wait_until(lambda: len(made) == 5)
    time.sleep(0.05)
    assert len(made) == 5
    next(results)
    wait_until(lambda: len(made) == 6)
    results.close()


def test_they_are_made_at_the_same_time() -> None:
    barrier = threading.Barrier(3)  # which breaks unless three threads meet
    assert len(list(map_ahead(lambda n: barrier.wait(5), range(3), 3, 3))) == 3


def count(made: list[int], until: int = 1000) -> Iterator[int]:
    for n in range(until):
        made.append(n)
        yield n


def test_iterated_items_come_in_order_and_only_a_few_ahead() -> None:
    made: list[int] = []
    items = iterate_ahead(count(made), 3)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    wait_until(lambda: len(made) >= 9)
    time.sleep(0.05)
    assert len(made) == 9  # 5 taken, 3 waiting, 1 that finds no room
    items.close()
    assert list(iterate_ahead(count([], 50), 3)) == list(range(50))


def test_an_error_comes_after_what_was_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("here")

    items = iterate_ahead(broken(), 3)
    assert next(items) == 1
    with pytest.raises(ValueError, match="here"):
        next(items)


def test_who_stops_listening_ends_the_thread() -> None:
    is_closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            is_closed.set()

    items = iterate_ahead(endless(), 2)
    next(items)
    items.close()
    assert is_closed.wait(5)


def test_a_camera_keeps_the_newest_frames() -> None:
    made: list[int] = []
    items = iterate_ahead(count(made, 100), 2, drop=True)
    assert next(items) in range(100)
    wait_until(lambda: len(made) == 100)
    assert list(items)[-1] == 99
    assert len(made) == 100
