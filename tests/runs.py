# SPDX-License-Identifier: Apache-2.0
"""Run the programs as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def program(
    *words: str | Path, check: bool = True, minutes: float = 10
) -> subprocess.CompletedProcess[str]:
    """``python WORDS`` from the root of the repository; its output is captured."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60 * minutes,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def torchrun(
    processes: int, *words: str | Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """``torchrun --nproc-per-node PROCESSES WORDS`` on a free port."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return program(*launcher, *words, check=check)


def tiny_coco(folder: Path, *, images: int = 4, side: int = 64) -> Path:
    """A data folder with two classes and the same few images in ``train`` and ``val``."""
    import numpy as np
    from PIL import Image

    (folder / "annotations").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir()
        records: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        for number in range(1, images + 1):
            pixels = generator.integers(0, 60, (side, side, 3), dtype=np.uint8)
            category = 1 + number % 2
            left, top = (int(v) for v in generator.integers(4, side // 2 - 4, 2))
            pixels[top : top + 24, left : left + 28, category] = 255
            name = f"{number}.png"
            Image.fromarray(pixels).save(folder / split / name)
            records.append({"id": number, "file_name": name, "width": side, "height": side})
            boxes.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [left, top, 28, 24],
                    "area": 28 * 24,
                    "iscrowd": 0,
                }
            )
        content = {
            "images": records,
            "annotations": boxes,
            "categories": [{"id": 1, "name": "green"}, {"id": 2, "name": "blue"}],
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder
