# SPDX-License-Identifier: Apache-2.0
import threading
from pathlib import Path

import pytest
from PIL import Image

from effdet.data.formats import header_sizes
from effdet.data.formats.header_sizes import read_sizes


@pytest.mark.parametrize("waits", [False, True])
def test_threads_take_over_where_reading_waits_and_the_order_stays(
    waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names, start=1):
        Image.new("RGB", (number, 7)).save(tmp_path / name)
    read_by = []

    def read(path: str) -> tuple[int, int]:
        read_by.append(threading.current_thread())
        return real(path)

    real = header_sizes.read_size
    monkeypatch.setattr(header_sizes, "read_size", read)
    monkeypatch.setattr(header_sizes, "PIECE", 2)
    clock = iter(range(100))
    monkeypatch.setattr(
        header_sizes.time, "perf_counter", lambda: 0.0 if not waits else next(clock)
    )
    monkeypatch.setattr(header_sizes.time, "thread_time", lambda: 0.0)
    paths = [str(tmp_path / name) for name in [*names, "none.png"]]
    found = list(read_sizes(paths))
    assert found[:5] == [(7, number) for number in range(1, 6)]
    assert "none.png: no such image file" in str(found[5])
    here = [thread is threading.main_thread() for thread in read_by]
    assert here == ([True] * 2 + [False] * 4 if waits else [True] * 6)
