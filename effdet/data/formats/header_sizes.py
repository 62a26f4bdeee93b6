# SPDX-License-Identifier: Apache-2.0
"""Sizes of images whose annotations do not record them, read from the files' headers."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet import distributed
from effdet.annotations import Faults
from effdet.annotations.faults import Fault
from effdet.bars import Bar
from effdet.cpus import usable_cpus
from effdet.data.images import read_size, silent_pillow
from effdet.data.stored_image import Size
from effdet.errors import DataError

MAX_THREADS = 16
"""Threads that read where reading waits for the disk."""

PIECE = 64
"""Images that a thread reads before it hands on their sizes."""


def fill_sizes(
    sizes: NDArray[np.int64],
    names: Sequence[str],
    folder: Path,
    faults: Faults,
    place: Callable[[int], str],
) -> None:
    """Read the sizes that are 0 from the images; files that cannot be read are faults.

    Args:
        sizes: ``[N, 2]`` (height, width) in pixels, filled in place with those of the upright
            images.
        names: ``[N]`` file names in ``folder``.
        folder: the image folder.
        faults: collects.
        place: where the name of an image stands.
    """
    wanted = np.flatnonzero((sizes == 0).any(axis=1)).tolist()
    if not wanted:
        return
    reasons: dict[int, str] = {}
    found = read_sizes([f"{folder}/{names[index]}" for index in wanted])
    for index, size in zip(wanted, found, strict=True):
        if isinstance(size, str):
            reasons[index] = size
        else:
            sizes[index] = size

    def describe(index: int) -> Fault:
        return Fault(
            kind="image-file",
            place=place(index),
            expected="an image with a size",
            found=reasons[index],
            image_id=index + 1,
        )

    faults.add_rows(reasons, describe)


def read_sizes(paths: Sequence[str]) -> Iterator[Size | str]:
    """The size (height, width) of each upright image, or why there is none.

    Where files come from memory, one thread is quickest: more would wait for each other. Threads
    take over from the first piece on that waits for the disk.
    """
    pieces = deque(paths[start : start + PIECE] for start in range(0, len(paths), PIECE))
    disable = None if distributed.is_main() else True
    with (
        silent_pillow(),
        ThreadPoolExecutor(min(MAX_THREADS, 4 * usable_cpus())) as pool,
        Bar(None, "image sizes", len(paths), False, unit="image", disable=disable) as bar,
    ):
        waits = False
        while pieces and not waits:
            wall, busy = time.perf_counter(), time.thread_time()
            found = _try_sizes(pieces.popleft())
            waits = time.thread_time() - busy < (time.perf_counter() - wall) / 2
            bar.update(len(found))
            yield from found
        for found in pool.map(_try_sizes, pieces):
            bar.update(len(found))
            yield from found


def _try_sizes(paths: Sequence[str]) -> list[Size | str]:
    return [_try_size(path) for path in paths]


def _try_size(path: str) -> Size | str:
    try:
        return read_size(path)
    except DataError as error:
        return str(error)
