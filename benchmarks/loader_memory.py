# SPDX-License-Identifier: Apache-2.0
"""Does a loader worker's own memory stay flat while it reads every annotation of a large set?

Makes a COCO file of ``--images`` images with ten boxes each, forks a worker and lets it read all
targets ``--passes`` times. What counts is private memory: pages shared with the parent are free
until a worker writes to them, and reading a Python object writes its reference count.

    python benchmarks/loader_memory.py
"""

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

from PIL import Image

from effdet.data.coco import CocoDataset


def private_mb() -> float:
    """Private memory of this process in MB (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def make(folder: Path, images: int) -> CocoDataset:
    """A data set whose images all are one small file."""
    Image.new("RGB", (640, 480)).save(folder / "a.jpg")
    rows = [{"id": k, "file_name": "a.jpg", "width": 640, "height": 480} for k in range(images)]
    boxes = [
        {"image_id": k % images, "category_id": 1, "bbox": [k % 500, 9.5, 20.25, 30]}
        for k in range(10 * images)
    ]
    content = {"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (folder / "a.json").write_text(json.dumps(content))
    return CocoDataset(folder / "a.json", folder)


def read_all(coco: CocoDataset, passes: int) -> None:
    """Print the private memory after each pass over all targets."""
    print(f"start: {private_mb():.1f} MB")
    for k in range(passes):
        boxes = sum(len(coco.target(index).labels) for index in range(len(coco)))
        print(f"pass {k + 1}: {boxes} boxes, {private_mb():.1f} MB")


def main() -> None:
    """Build, fork, read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--passes", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        coco = make(Path(folder), arguments.images)
        print(coco.report)
        context = multiprocessing.get_context("fork")
        worker = context.Process(target=read_all, args=(coco, arguments.passes))
        worker.start()
        worker.join()


if __name__ == "__main__":
    main()
