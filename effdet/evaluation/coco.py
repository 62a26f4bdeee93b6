# SPDX-License-Identifier: Apache-2.0
"""COCO's detection figures, exactly as COCOeval computes them."""

import contextlib
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.annotations import check_classes
from effdet.annotations.table import Ids
from effdet.distributed import gather_to_main
from effdet.errors import EffdetError, UsageError, printable
from effdet.evaluation.files import GroundTruth, Results, Source, load_results
from effdet.settings import Evaluator
from effdet.structures import ClassMap, Detections

_AT50, _AT75 = 0, 5  # places of IoU 0.50 and 0.75 among COCO's ten thresholds 0.50, 0.55, ... 0.95
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # area ranges
_TOP1, _TOP10, _TOP100 = range(3)  # detections an image and class


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Figures of one category.

    Attributes:
        category_id: the data set's id.
        name: its name.
        boxes: ground truth boxes, crowd regions not counted.
        ap: AP averaged over IoU 0.50 to 0.95, 0-1; None where there is no box to find.
        ap50: AP at IoU 0.50, 0-1; None where there is no box to find.
    """

    category_id: int
    name: str
    boxes: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What an evaluation found.

    Attributes:
        figures: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm and ARl, 0-1; None where
            the ground truth has no box of that kind (COCOeval prints -1).
        per_class: one row a category, in rising order of category id.
        images: images that were evaluated.
        bad_images: those of them that could not be read; their boxes count as missed.
    """

    figures: dict[str, float | None]
    per_class: tuple[ClassFigures, ...]
    images: int
    bad_images: int = 0


class CocoEvaluator:
    """Collects the detections of a data set, image by image, and scores them.

    All images of the ground truth count, whether they were seen or not. Detections of classes that
    the ground truth has no category for cannot be scored: they are left out and counted.

    Attributes:
        ground_truth: what is to be found.
        class_map: classes of the detections' labels.
        num_left_out: detections of classes that are not in the ground truth.
    """

    def __init__(
        self,
        ground_truth: Source | GroundTruth,
        class_map: ClassMap,
        backend: Evaluator = "faster",
    ) -> None:
        """Read the ground truth.

        Args:
            ground_truth: COCO annotation file, its content, or what was read of it before.
            class_map: classes of the detections' labels.
            backend: the library that computes: ``faster`` (faster-coco-eval) or ``pycocotools``.

        Raises:
            DataError: for a bad annotation file, or categories that ``class_map`` does not know.
            EffdetError: where the library is not installed.
        """
        _import_backend(backend)  # better now than after hours of detecting
        self.ground_truth = GroundTruth.load(ground_truth)
        check_classes(self.ground_truth.name, self.ground_truth.categories, class_map)
        self.class_map = class_map
        self.num_left_out = 0
        self._backend: Evaluator = backend
        self._category_ids = _category_ids(self.ground_truth, class_map)
        self._seen: set[int] = set()
        self._parts: list[Results] = []

    @property
    def num_images(self) -> int:
        """Images seen so far: by this process, and after :meth:`gather` by all."""
        return len(self._seen)

    def update(self, image_id: int, detections: Detections) -> None:
        """Take the detections of one image, in pixels of the original image.

        Raises:
            ValueError: for an image that is not in the ground truth or was taken before, and for
                boxes, scores or labels that cannot be.
        """
        if image_id not in self.ground_truth.image_ids:
            raise ValueError(f"image id {image_id} is not in {self.ground_truth.name}")
        if image_id in self._seen:
            raise ValueError(f"image id {image_id} was taken before; each image counts once")
        found = detections.to("cpu")
        _check_detections(image_id, found, len(self.class_map))
        self._seen.add(image_id)
        self._add(image_id, found)

    def _add(self, image_id: int, found: Detections) -> None:
        category_ids = self._category_ids[found.labels.numpy()]
        known = category_ids >= 0
        boxes = found.boxes.numpy().astype(np.float64)[known]
        self.num_left_out += len(known) - len(boxes)
        self._parts.append(
            Results(
                image_ids=np.full(len(boxes), image_id),
                category_ids=category_ids[known],
                boxes=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
                scores=found.scores.numpy().astype(np.float64)[known],
            )
        )

    def gather(self) -> bool:
        """Bring the detections of all processes to the main one; call it on every process.

        Returns:
            Whether this is the main process, which now evaluates; the others hold nothing more.

        Raises:
            ValueError: where two processes took the same image.
        """
        gathered = gather_to_main((self._seen, self.results(), self.num_left_out))
        self._seen, self._parts, self.num_left_out = set(), [], 0
        for seen, results, num_left_out in gathered or []:
            if twice := self._seen & seen:
                raise ValueError(f"image id {min(twice)} was taken by two processes")
            self._seen |= seen
            self._parts.append(results)
            self.num_left_out += num_left_out
        return gathered is not None

    def results(self) -> Results:
        """The detections so far as entries of a COCO results file, in rising order of image id."""
        return Results.join(self._parts)

    def evaluate(self) -> Metrics:
        """The figures of the detections so far, over all images of the ground truth."""
        return evaluate_results(self.ground_truth, self.results(), self._backend)


def score_files(
    ground_truth: Source | GroundTruth,
    results: str | Path,
    backend: Evaluator = "faster",
    *,
    strict: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> Metrics:
    """The figures of a COCO results file.

    Args:
        ground_truth: COCO annotation file, its content, or what was read of it before.
        results: the file.
        backend: the library that computes.
        strict: refuse what would be repaired, in either file.
        note: called with a line a file in which values were repaired.

    Raises:
        DataError: for a file that cannot be read, or a value in it that cannot be right.
        EffdetError: where the library of ``backend`` is not installed.
    """
    truth = GroundTruth.load(ground_truth, strict=strict)
    found, num_mended = load_results(results, truth, strict=strict)
    for name, count in ((truth.name, truth.num_mended), (str(results), num_mended)):
        if count:
            note(f"{printable(name)}: {count:,} values of another type read as numbers")
    return evaluate_results(truth, found, backend)


def evaluate_results(
    ground_truth: GroundTruth, results: Results, backend: Evaluator = "faster"
) -> Metrics:
    """The figures of ``results`` over all images and categories of ``ground_truth``."""
    precision, recall = run_cocoeval(ground_truth, results, backend)
    return Metrics(
        figures={
            "AP": _mean(precision[..., _ALL, _TOP100]),
            "AP50": _mean(precision[_AT50, ..., _ALL, _TOP100]),
            "AP75": _mean(precision[_AT75, ..., _ALL, _TOP100]),
            "APs": _mean(precision[..., _SMALL, _TOP100]),
            "APm": _mean(precision[..., _MEDIUM, _TOP100]),
            "APl": _mean(precision[..., _LARGE, _TOP100]),
            "AR1": _mean(recall[..., _ALL, _TOP1]),
            "AR10": _mean(recall[..., _ALL, _TOP10]),
            "AR100": _mean(recall[..., _ALL, _TOP100]),
            "ARs": _mean(recall[..., _SMALL, _TOP100]),
            "ARm": _mean(recall[..., _MEDIUM, _TOP100]),
            "ARl": _mean(recall[..., _LARGE, _TOP100]),
        },
        per_class=_per_class(ground_truth, precision[..., _ALL, _TOP100]),
        images=len(ground_truth.image_ids),
    )


def run_cocoeval(
    ground_truth: GroundTruth, results: Results, backend: Evaluator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """COCOeval's precision ``[10, 101, K, 4, 3]`` and recall ``[10, K, 4, 3]``, -1 for "none".

    The axes are IoU thresholds, recall levels, categories, area ranges and detections an image.
    """
    new_coco, new_cocoeval = _import_backend(backend)
    truth, found = ground_truth.to_coco(), ground_truth.to_coco()
    found["annotations"] = [_detection(number, entry) for number, entry in enumerate(results, 1)]
    with contextlib.redirect_stdout(io.StringIO()):  # both libraries print their progress
        coco_eval = new_cocoeval(_index(new_coco(), truth), _index(new_coco(), found), "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
    return np.asarray(coco_eval.eval["precision"]), np.asarray(coco_eval.eval["recall"])


def _import_backend(backend: Evaluator) -> tuple[Any, Any]:
    """The ``COCO`` and ``COCOeval`` classes of a library."""
    try:
        if backend == "faster":
            from faster_coco_eval import COCO, COCOeval_faster

            return COCO, COCOeval_faster
        if backend == "pycocotools":
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval

            return COCO, COCOeval
    except ImportError as error:
        package = "faster-coco-eval" if backend == "faster" else backend
        raise EffdetError(f"evaluation needs {package}: pip install {package}") from error
    raise UsageError(f"the evaluator must be faster or pycocotools, got {backend!r}")


def _index(coco: Any, dataset: dict[str, Any]) -> Any:
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _detection(number: int, entry: dict[str, Any]) -> dict[str, Any]:
    """A results entry with what COCOeval adds to one that it reads itself."""
    _, _, width, height = entry["bbox"]
    return entry | {"id": number, "area": width * height, "iscrowd": 0}


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean of what was measured; None where nothing could be (-1 everywhere)."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None


def _per_class(
    ground_truth: GroundTruth, precision: NDArray[np.float64]
) -> tuple[ClassFigures, ...]:
    """A row a category from precision ``[10, 101, K]``."""
    boxes = Counter(row["category_id"] for row in ground_truth.annotations if not row["iscrowd"])
    return tuple(
        ClassFigures(
            category_id=category_id,
            name=name,
            boxes=boxes[category_id],
            ap=_mean(precision[..., k]),
            ap50=_mean(precision[_AT50, :, k]),
        )
        for k, (category_id, name) in enumerate(ground_truth.categories.items())
    )


def _category_ids(ground_truth: GroundTruth, class_map: ClassMap) -> Ids:
    """Category id of each class index, -1 where the ground truth has no such category."""
    categories = ground_truth.categories
    ids = [i if i in categories else None for i in class_map.category_ids]
    return np.array([-1 if i is None else i for i in ids], dtype=np.int64)


def _check_detections(image_id: int, found: Detections, num_classes: int) -> None:
    """Refuse what COCOeval would silently turn into wrong figures."""
    boxes, scores, labels = found.boxes, found.scores, found.labels
    if not (len(boxes) == len(scores) == len(labels)):
        counts = f"{len(boxes)}, {len(scores)} and {len(labels)}"
        raise ValueError(f"image id {image_id}: {counts} boxes, scores and labels")
    if not (boxes.isfinite().all() and scores.isfinite().all()):
        raise ValueError(f"image id {image_id}: boxes and scores must be finite")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"image id {image_id}: boxes must be xyxy with x1 <= x2 and y1 <= y2")
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError(f"image id {image_id}: labels must be in 0 to {num_classes - 1}")
