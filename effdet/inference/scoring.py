# SPDX-License-Identifier: Apache-2.0
"""How good is a detector on a data set?"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from effdet import distributed
from effdet.counts import counted
from effdet.data import (
    CocoDataset,
    EvalTransform,
    Loader,
    SplitFiles,
    build_eval_loader,
    read_split,
)
from effdet.errors import DataError, printable
from effdet.evaluation import CocoEvaluator, GroundTruth, Metrics, Results, evaluate
from effdet.inference.predict import Detector
from effdet.settings import MAX_PIXELS, Evaluator

Note = Callable[[str], None]


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Score:
    """What :func:`score_split` found.

    Attributes:
        metrics: COCO figures, the same on every process.
        results: all detections, on the main process.
        dataset: the images.
        truth: the boxes that were to be found.
    """

    metrics: Metrics
    results: Results
    dataset: CocoDataset
    truth: GroundTruth


def score_split(
    detector: Detector,
    files: SplitFiles,
    *,
    asked: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    workers: int | None = None,
    strict: bool = False,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_bad_images: float = 0.0,
    evaluator: Evaluator = "faster",
    dtype: torch.dtype | None = None,
    progress: bool = False,
    note: Note = _silent,
) -> Score:
    """Run a detector over a split, divided among all processes, and score what it finds.

    Args:
        detector: its ``postprocess`` is that of the figures that are wanted.
        files: the split.
        asked: post-processing that somebody has asked for beyond that.
        batch_size: images a process and step.
        workers: loader processes of each process; by CPUs if None.
        strict: refuse annotations that would be repaired.
        follow_links: read images that a link leads to outside of their folder.
        max_pixels: larger images are refused before decoding.
        max_bad_images: part of the images, 0-1, that may be unreadable.
        evaluator: library that computes the figures.
        dtype: mixed-precision type, None for full precision.
        progress: show a bar on stderr.
        note: takes, on the main process, a line for the person who watches.

    Raises:
        DataError: for data that cannot be used, or where no image can be read.
        UsageError: for post-processing that cannot be had.
    """
    process = detector.build_postprocess(**(asked or {}))
    tell = note if distributed.is_main() else _silent
    dataset, truth = _read(detector, files, strict, follow_links, max_pixels)
    for text in (f"{files.annotations}: {dataset.report}", *gaps(truth)):
        tell(text)
    loader = build_eval_loader(
        dataset,
        EvalTransform(detector.config.image_size, detector.config.mean, detector.config.std),
        batch_size=batch_size,
        num_workers=distributed.num_workers(workers),
        device=detector.device,
        max_bad_images=max_bad_images,
    )
    scorer = CocoEvaluator(truth, detector.class_map, evaluator)
    metrics = evaluate(
        detector.model,
        loader,
        process,
        scorer,
        device=detector.device,
        dtype=dtype,
        channels_last=detector.channels_last,
        progress=progress,
    )
    if scorer.num_left_out:
        tell(f"{counted(scorer.num_left_out, 'detection')} left out: the data has no such class")
    bad = _count_bad(loader, files, metrics, tell)
    metrics = dataclasses.replace(metrics, bad_images=bad)
    return Score(metrics=metrics, results=scorer.results(), dataset=dataset, truth=truth)


def _read(
    detector: Detector, files: SplitFiles, strict: bool, follow_links: bool, max_pixels: int
) -> tuple[CocoDataset, GroundTruth]:
    """The images of a split, and the boxes that are to be found in them."""
    table = read_split(files, detector.class_map, follow_links=follow_links)
    dataset = CocoDataset(
        table,
        files.images,
        class_map=detector.class_map,
        strict=strict,
        follow_links=follow_links,
        max_pixels=max_pixels,
    )
    return dataset, GroundTruth.load(table)


def gaps(truth: GroundTruth) -> list[str]:
    """What the figures will not tell, in lines."""
    name = printable(truth.name)
    lines = []
    if truth.num_left_out:
        lines.append(
            f"{name}: {counted(truth.num_left_out, 'box', 'boxes')} of negative size left out"
        )
    if not truth.annotations:
        lines.append(f"{name}: there is no box to be found; all figures are empty")
    return lines


def _count_bad(loader: Loader, files: SplitFiles, metrics: Metrics, note: Note) -> int:
    """The number of images that could not be read, each of which is named.

    Raises:
        DataError: where it is all of them: there is nothing to be judged.
    """
    bad = loader.record
    bad.share()
    if len(bad.bad) == metrics.images:
        raise DataError(f"{files.images}: not one image could be read")
    for text in bad.news():
        note(f"warning: {text}")
    return len(bad.bad)
