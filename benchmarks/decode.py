# SPDX-License-Identifier: Apache-2.0
"""What the checks of the decoder cost: against Pillow's open and convert, in turn.

python -m benchmarks.decode FOLDER_OF_JPEGS
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from effdet.data.images import decode_image

ROUNDS = 15


def plain(path: Path) -> Tensor:
    """Without a check: ``[3, H, W]`` uint8."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def seconds(decode: Callable[[Path], Tensor], files: list[Path]) -> float:
    """For all files."""
    start = time.process_time()
    for file in files:
        decode(file)
    return time.process_time() - start


def main() -> None:
    """Print milliseconds an image and the ratio, medians over rounds."""
    torch.set_num_threads(1)
    files = sorted(Path(sys.argv[1]).rglob("*.jpg"))[:60]
    rows = [(seconds(decode_image, files), seconds(plain, files)) for _ in range(ROUNDS + 1)][1:]
    ours, theirs = (1000 * statistics.median(row[k] for row in rows) / len(files) for k in (0, 1))
    ratio = statistics.median(a / b for a, b in rows)
    print(f"{len(files)} files: {ours:.3f} ms, Pillow alone {theirs:.3f} ms, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
