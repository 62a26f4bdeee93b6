# SPDX-License-Identifier: Apache-2.0
"""The kept detections of a run, judged against their ground truth."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet.annotations import AnnotationTable, read_annotations
from effdet.data import CocoDataset
from effdet.errors import DataError, printable
from effdet.evaluation import (
    BestF1,
    ClassCurve,
    GroundTruth,
    Matching,
    best_f1,
    class_curves,
    match,
)
from effdet.evaluation.files import load_results
from effdet.keepsakes import FOLDER
from effdet.report.run import RunRecord

FALLBACK_THRESHOLD = 0.3
"""Score threshold where no detection is correct, so that none is best."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A validation, looked at closely.

    Attributes:
        table: the annotations.
        truth: the same for evaluation.
        curves: precision over recall, and AP, of each category.
        best: category id -> its best score threshold; None for all together.
        threshold: score from which detections count in ``matching``.
        matching: of these detections with the boxes.
    """

    table: AnnotationTable
    truth: GroundTruth
    curves: tuple[ClassCurve, ...]
    best: dict[int | None, BestF1 | None]
    threshold: float
    matching: Matching


def judge(run: RunRecord, score_threshold: float | None = None) -> Judged | None:
    """Judge the kept detections; None where none are kept.

    Args:
        run: the run.
        score_threshold: from which detections count among the errors (default: that of the best
            F1 of all classes together).

    Raises:
        DataError: for kept files that are missing or damaged.
    """
    if not run.best:
        return None
    folder = run.folder / FOLDER
    detections, annotations = (_file(folder, run.best, key) for key in ("detections", "truth"))
    table = read_annotations(annotations)
    truth = GroundTruth.load(table)
    results, _ = load_results(detections, truth)
    everything = match(truth, results)
    best = {i: best_f1(everything, i) for i in (None, *truth.categories)}
    of_all = best[None]
    if score_threshold is None:
        score_threshold = FALLBACK_THRESHOLD if of_all is None else of_all.threshold
    return Judged(
        table=table,
        truth=truth,
        curves=class_curves(truth, results),
        best=best,
        threshold=score_threshold,
        matching=match(truth, results, score_threshold=score_threshold),
    )


def open_images(
    run: RunRecord, judged: Judged, images: Path | None, note: Callable[[str], object]
) -> CocoDataset | None:
    """The images that were validated; None, with a note, where they are not to be had.

    Args:
        run: the run, which says where they were.
        judged: names them.
        images: the folder where they are now (default: where they were).
        note: takes a line for the reader.
    """
    folder = images or Path(str(run.best.get("images")))
    follow_links = run.settings.get("follow_links") is True
    try:
        return CocoDataset(judged.table, folder, follow_links=follow_links)
    except (DataError, ValueError) as error:  # ValueError: no path can be such a text
        note(
            "Pictures of the validation images are left out, since they are not in "
            f"{printable(str(folder))} "
            f"({str(error).splitlines()[0][:200]}); say where the data is with --data DIR."
        )
        return None


def _file(folder: Path, best: dict[str, Any], key: str) -> Path:
    name = best.get(key)
    if not isinstance(name, str) or Path(name).name != name:
        raise DataError(f"{folder}/best.json: {key}: expected the name of a file beside it")
    return folder / name
