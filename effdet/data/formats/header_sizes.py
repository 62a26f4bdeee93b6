# SPDX-License-Identifier: Apache-2.0
"""Sizes of images whose annotations do not record them, read from the files' headers."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from effdet import distributed
from effdet.annotations import Faults
from effdet.annotations.faults import Fault
from effdet.cpus import usable_cpus
from effdet.data.images import read_size
from effdet.errors import DataError

MAX_THREADS = 16
"""Reading waits for the disk more than for a processor."""


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
    with ThreadPoolExecutor(min(MAX_THREADS, 4 * usable_cpus())) as pool:
        found = pool.map(lambda index: _try_size(folder / names[index]), wanted)
        disable = None if distributed.is_main() else True
        bar = tqdm(found, "image sizes", len(wanted), leave=False, unit="image", disable=disable)
        for index, size in zip(wanted, bar):
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


def _try_size(path: Path) -> tuple[int, int] | str:
    try:
        return read_size(path)
    except DataError as error:
        return str(error)
