# SPDX-License-Identifier: Apache-2.0
"""Does a long run keep its memory, its open files and its folder as they are?

Trains a tiny model through ``train.train`` with one loader worker, validates and saves after every
epoch, and looks every few steps at the memory that only the process and the worker have (dirty
pages), at what they share, at their open files and at the files of the run. A line is fitted to
the last three quarters of the samples; means of blocks stand for them, as they are not independent.

    python benchmarks/soak.py

Writes benchmarks/results/soak.json. Linux.
"""

import argparse
import contextlib
import dataclasses
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # for train.py

from measuring import write_result

import train
from effdet.config import BACKBONES, MODELS
from effdet.settings import TrainConfig
from effdet.training import Attendant

LIMIT = 1000.0
"""Bytes a step that the upper bound of the slope must stay below."""
BLOCKS = 20
_T_95 = 1.734
"""95 % quantile of Student's t with BLOCKS - 2 degrees of freedom."""
BATCH, EPOCH_STEPS, SIDE = 2, 100, 64


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the run holds after ``step`` steps, its worker included.

    Attributes:
        step: steps done.
        own: bytes of memory that no other process shares, of the main process.
        workers: the same of the loader workers.
        shared: bytes of shared memory, each page divided by its users.
        open_files: descriptors.
        files: in the run folder.
        shm_files: in /dev/shm, of these processes.
    """

    step: int
    own: int
    workers: int
    shared: int
    open_files: int
    files: int
    shm_files: int


@dataclasses.dataclass(frozen=True)
class Growth:
    """A fitted slope in bytes a step, and the bound that it is below with 95 % certainty."""

    slope: float
    bound: float


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=20, help="steps between samples")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        samples = soak(Path(folder), arguments.steps, arguments.every, arguments.seed)
    figures = {
        "steps": arguments.steps,
        "epochs_validated_and_saved": arguments.steps // EPOCH_STEPS,
        "samples": len(samples),
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - start),
        **summary(samples),
    }
    print(json.dumps(figures, indent=1))
    write_result("soak", figures)
    if faults := grown(samples):
        raise SystemExit("; ".join(faults))


def soak(
    folder: Path, steps: int, every: int, seed: int = 0, *, leak: int = 0, epoch: int = EPOCH_STEPS
) -> list[Sample]:
    """Train ``steps`` steps in ``folder`` and sample every ``every`` steps.

    Args:
        folder: an empty one.
        steps: a multiple of ``epoch``.
        every: steps between samples.
        seed: of the run.
        leak: bytes that the process loses at each step, to see that this is found.
        epoch: steps of an epoch.
    """
    samples: list[Sample] = []
    lost: list[NDArray[np.uint8]] = []
    run = folder / "run"

    class Sampling(Attendant):
        def after_step(self, images: int) -> None:
            super().after_step(images)
            if leak:
                lost.append(np.ones(leak, np.uint8))
            if self.trainer.step % every == 0:
                if self.trainer.step <= steps // 4:
                    # It writes to every object, and so ends the sharing of pages with the workers,
                    # which otherwise ends at some moment that looks like a leak.
                    gc.collect()
                samples.append(sample(self.trainer.step, run))

    config = TrainConfig(
        data=str(make_data(folder / "data", epoch * BATCH)),
        output=str(run),
        model=add_model(),
        epochs=steps // epoch,
        batch_size=BATCH,
        workers=1,
        seed=seed,
        save_minutes=0.2,
        save_every=1,
        keep=1,
        max_candidates=200,
        max_detections=20,
        device="cpu",
        console="lines",
    )
    # What it prints is not part of the result.
    with (
        mock.patch.object(train, "Attendant", Sampling),
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        train.train(config.settled(None), torch.device("cpu"), None)
    return samples


def sample(step: int, run: Path) -> Sample:
    """What this process, its workers and ``run`` hold now."""
    pids = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    own, shared = memory(os.getpid())
    of_workers = [memory(pid) for pid in pids]
    everyone = [os.getpid(), *pids]
    shm = Path("/dev/shm")
    names = [path.name for path in shm.iterdir()] if shm.is_dir() else []
    return Sample(
        step=step,
        own=own,
        workers=sum(part[0] for part in of_workers),
        shared=shared + sum(part[1] for part in of_workers),
        open_files=sum(count(Path(f"/proc/{pid}/fd")) for pid in everyone),
        files=count(run),
        shm_files=sum(f"_{pid}_" in name for name in names for pid in everyone),
    )


def count(folder: Path) -> int:
    """Entries of ``folder``."""
    return sum(1 for _ in folder.iterdir())


def memory(pid: int) -> tuple[int, int]:
    """Bytes of a process's own memory, and its part of shared memory.

    Clean pages are those of files, such as torch's libraries, and count as the process's own or
    not by who else has them open at the moment; what leaks is dirty.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    own = sizes["Private_Dirty"] + sizes["Swap"] + sizes.get("Private_Hugetlb", 0)
    return own, sizes.get("Pss_Shmem", 0)


def growth(steps: Sequence[int], values: Sequence[int]) -> Growth:
    """The line through the means of :data:`BLOCKS` blocks of the last three quarters."""
    first = len(steps) // 4
    x = np.array([b.mean() for b in np.array_split(np.array(steps[first:], float), BLOCKS)])
    y = np.array([b.mean() for b in np.array_split(np.array(values[first:], float), BLOCKS)])
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    error = float(np.sqrt(rest @ rest / (BLOCKS - 2) / (x @ x)))
    return Growth(slope=slope, bound=slope + _T_95 * error)


MEMORY, COUNTS = ("own", "workers", "shared"), ("open_files", "files", "shm_files")


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Slopes and bounds in bytes a step, and the largest counts early and late in the run."""
    steps = [s.step for s in samples]
    total = growth(steps, [s.own + s.workers for s in samples])
    found: dict[str, Any] = {
        "own_and_workers_bytes_per_step": round(total.slope, 1),
        "own_and_workers_bound_95": round(total.bound, 1),
    }
    for name in MEMORY:
        line = growth(steps, [getattr(s, name) for s in samples])
        found[f"{name}_bytes_per_step"] = round(line.slope, 1)
        found[f"{name}_bound_95"] = round(line.bound, 1)
    found["own_mb_at_the_end"] = round(samples[-1].own / 1e6, 1)
    found["workers_mb_at_the_end"] = round(samples[-1].workers / 1e6, 1)
    for name in COUNTS:
        early, late = _early_and_late(samples, name)
        found[f"{name}_early"], found[f"{name}_late"] = early, late
    return found


def grown(samples: Sequence[Sample], limit: float = LIMIT) -> list[str]:
    """What grew, in words; nothing where all is as it should be."""
    steps = [s.step for s in samples]
    faults = []
    series = {name: [getattr(s, name) for s in samples] for name in MEMORY}
    series["own and workers"] = [s.own + s.workers for s in samples]
    for name, values in series.items():
        line = growth(steps, values)
        if line.bound >= limit:
            faults.append(f"memory ({name}) grows by up to {line.bound:.0f} bytes a step")
    for name in COUNTS:
        early, late = _early_and_late(samples, name)
        if late > early:
            faults.append(f"{name} grew from {early} to {late}")
    return faults


def _early_and_late(samples: Sequence[Sample], name: str) -> tuple[int, int]:
    """The largest count in the second and third eighths, and after."""
    first, second = len(samples) // 8, 3 * len(samples) // 8
    values = [int(getattr(s, name)) for s in samples]
    return max(values[first:second]), max(values[second:])


def add_model() -> str:
    """Add the smallest EfficientDet that has all its parts; its name."""
    backbone = dataclasses.replace(
        BACKBONES["efficientnet_b0"], name="efficientnet_soak", width=0.1, depth=0.25
    )
    BACKBONES[backbone.name] = backbone
    MODELS["soak"] = dataclasses.replace(
        MODELS["efficientdet_d0"],
        name="soak",
        backbone=backbone.name,
        image_size=(SIDE, SIDE),
        width=8,
        bifpn_cells=1,
        head_repeats=1,
        survival_prob=0.8,
    )
    return "soak"


def make_data(folder: Path, images: int) -> Path:
    """Images of one bright box each, to train on, and four to validate on."""
    draws = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("train", images), ("val", 4)):
        (folder / split).mkdir()
        rows, boxes = [], []
        for number in range(1, count + 1):
            pixels = draws.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
            x, y = (int(v) for v in draws.integers(2, SIDE // 2, 2))
            pixels[y : y + 24, x : x + 28] = 255
            Image.fromarray(pixels).save(folder / split / f"{number}.png")
            rows.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
            boxes.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0,
                          "bbox": [x, y, 28, 24], "area": 28 * 24})  # fmt: skip
        content = {"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "box"}]}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


if __name__ == "__main__":
    main()
