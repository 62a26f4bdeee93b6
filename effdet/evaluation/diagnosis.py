# SPDX-License-Identifier: Apache-2.0
"""Why a model finds nothing: what to look at when AP is practically 0."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from effdet.annotations.table import Floats, Ids
from effdet.boxes import box_iou
from effdet.counts import counted
from effdet.evaluation.files import GroundTruth, Results
from effdet.evaluation.matching import image_rows, select, truth_boxes, xyxy
from effdet.names import shown_name
from effdet.structures import ClassMap

LEAST_AP = 0.001
"""The least AP that three digits tell from 0; twice what random weights come to by chance (0.0005
on 87 images of blood cells, 0.00001 on 211 of COCO)."""
SHOWN = 10
"""Classes in a histogram."""
SCORES = (0.05, 0.3, 0.5)
"""Scores above which detections are counted."""
CONFIDENT = 0.3
"""Score of a detection that the model means; below it boxes hit others by chance."""
MATCH = 0.5
"""IoU of boxes that are taken for the same object."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Overlap:
    """How well each of ``N`` ground-truth boxes is met.

    Attributes:
        any_class: ``[N]`` best IoU with a detection of its image.
        right_class: ``[N]`` best IoU with one of its class.
        found_as: ``[N]`` category of the detection that met it best, 0 where there is none.
    """

    any_class: Floats
    right_class: Floats
    found_as: Ids


def finds_nothing(ap: float | None) -> bool:
    """Whether an AP is practically 0, or there is none: a case for :func:`diagnose`."""
    return ap is None or ap < LEAST_AP


def diagnose(
    results: Results,
    ground_truth: GroundTruth,
    class_map: ClassMap,
    num_left_out: int = 0,
    *,
    lr_advice: str = "",
) -> str:
    """Counts of boxes and detections, how they overlap, their classes, and the likely cause.

    After :func:`~effdet.evaluation.loop.evaluate` the main process has all of it in its
    :class:`~effdet.evaluation.coco.CocoEvaluator`.

    Args:
        results: the detections of all images.
        ground_truth: what was to be found.
        class_map: the model's classes.
        num_left_out: detections of classes that the ground truth has no category for.
        lr_advice: the learning rate and what is usual, for a model that is being trained.

    Returns:
        Several lines; the last one begins with ``likely cause:`` and says what to do.
    """
    truth = truth_boxes(ground_truth)
    overlap = _overlap(results, truth)
    confident = select(results, results.scores > CONFIDENT)
    lines = [
        _truth_line(ground_truth, truth),
        _detections_line(results, num_left_out),
        _overlap_line("all", overlap),
        _overlap_line(f"score > {CONFIDENT}", _overlap(confident, truth)),
        f"classes of boxes       {_histogram(truth.category_ids, ground_truth)}",
        f"classes of detections  {_histogram(results.category_ids, ground_truth)}",
        f"likely cause: {_cause(results, truth, ground_truth, class_map, num_left_out, lr_advice)}",
    ]
    return "\n".join(lines)


def _overlap(results: Results, truth: Results) -> _Overlap:
    """Best overlaps, image by image; both must be in rising order of image id."""
    any_class, right_class = np.zeros(len(truth)), np.zeros(len(truth))
    found_as = np.zeros(len(truth), np.int64)
    boxes, found = xyxy(truth.boxes), xyxy(results.boxes)
    for image_id in np.unique(truth.image_ids):
        rows = image_rows(truth, image_id)
        columns = image_rows(results, image_id)
        if columns.start == columns.stop:
            continue
        iou = box_iou(boxes[rows], found[columns]).numpy()  # [boxes, detections]
        best = iou.argmax(axis=1)
        any_class[rows] = iou.max(axis=1)
        found_as[rows] = results.category_ids[columns][best]
        same = truth.category_ids[rows][:, None] == results.category_ids[columns][None]
        right_class[rows] = np.where(same, iou, 0).max(axis=1)
    return _Overlap(any_class=any_class, right_class=right_class, found_as=found_as)


def _truth_line(ground_truth: GroundTruth, truth: Results) -> str:
    crowds = len(ground_truth.annotations) - len(truth)
    return (
        f"ground truth  {counted(len(truth), 'box', 'boxes')} in "
        f"{len(np.unique(truth.image_ids)):,} of {counted(len(ground_truth.image_ids), 'image')}"
        + (f", {counted(crowds, 'crowd region')}" if crowds else "")
    )


def _detections_line(results: Results, num_left_out: int) -> str:
    above = ", ".join(f"> {score}: {(results.scores > score).sum():,}" for score in SCORES)
    highest = f"{results.scores.max():.3f}" if len(results) else "none"
    line = f"detections    {len(results):,}; score {above}; highest {highest}"
    return line + (f"; {num_left_out:,} of other classes left out" if num_left_out else "")


def _overlap_line(of: str, overlap: _Overlap) -> str:
    if not len(overlap.any_class):
        return f"best IoU      no boxes to meet ({of})"
    parts = [
        f"{name} mean {values.mean():.3f}, {_percent(values >= MATCH)} of boxes >= {MATCH}"
        for name, values in (("any class", overlap.any_class), ("right", overlap.right_class))
    ]
    return f"best IoU      {'; '.join(parts)} ({of})"


def _percent(mask: Iterable[bool]) -> str:
    return f"{100 * np.mean(list(mask)):.0f} %"


def _histogram(category_ids: Ids, ground_truth: GroundTruth) -> str:
    counts = Counter(category_ids.tolist())
    if not counts:
        return "none"
    names = {i: shown_name(ground_truth.categories[i]) for i in counts}
    shown = [
        f"{names[i]} {count:,} ({100 * count / len(category_ids):.0f} %)"
        for i, count in counts.most_common(SHOWN)
    ]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more > 0 else "")


def _cause(
    results: Results,
    truth: Results,
    ground_truth: GroundTruth,
    class_map: ClassMap,
    num_left_out: int,
    lr_advice: str,
) -> str:
    """What most probably is wrong, and what to do about it."""
    if not len(truth):
        return (
            f"{ground_truth.name} has no boxes; check --val-annotations and its `annotations` list"
        )
    if num_left_out > len(results):
        return (
            "most detections are of classes that the ground truth has no category for; check that "
            "the categories of the training and the validation file are the same"
        )
    if not len(results):
        return (
            "nothing is found at all, not even with a low score; the weights may not be finite or "
            "the score threshold too high: look at the loss and at --score-threshold"
        )
    confident = select(results, results.scores > CONFIDENT)
    if not len(confident):
        return (
            f"no detection has a score above {CONFIDENT}: it is too early to say, or nothing is "
            "learned; train on, and if the loss does not fall, start from --weights or change --lr"
            + (f" ({lr_advice})" if lr_advice else "")
        )
    return _cause_of_confident(confident, truth, ground_truth, class_map)


def _cause_of_confident(
    confident: Results, truth: Results, ground_truth: GroundTruth, class_map: ClassMap
) -> str:
    """The same, where there are boxes and confident detections."""
    overlap = _overlap(confident, truth)
    met = overlap.any_class >= MATCH
    found_classes = Counter(confident.category_ids.tolist())
    most, count = found_classes.most_common(1)[0]
    if count >= 0.95 * len(confident) and len(np.unique(truth.category_ids)) > 1:
        share = (truth.category_ids == most).mean()
        if share < 0.5:
            return (
                f"{100 * count / len(confident):.0f} % of the detections are "
                f"{ground_truth.categories[most]}, but only {100 * share:.0f} % of the boxes; the "
                "classes are very uneven or their ids were lost in a conversion: check the "
                "category_id of the training annotations"
            )
    if met.mean() < 0.1:
        return _no_overlap(confident, truth, ground_truth)
    if (overlap.right_class >= MATCH).mean() < 0.5 * met.mean():
        return _wrong_class(truth.category_ids[met], overlap.found_as[met], ground_truth, class_map)
    return (
        "boxes of the right class are met, but with too low scores or too loosely; train on, and "
        "look at the pictures of effdet predict"
    )


def _no_overlap(confident: Results, truth: Results, ground_truth: GroundTruth) -> str:
    start = "confident boxes are not where the objects are"
    swapped = Results(
        image_ids=confident.image_ids,
        category_ids=confident.category_ids,
        boxes=confident.boxes[:, [1, 0, 3, 2]],
        scores=confident.scores,
    )
    if (_overlap(swapped, truth).any_class >= MATCH).mean() >= 0.3:
        return (
            f"{start}, but would be with x and y exchanged: the boxes of one of the annotation "
            "files are (y, x, height, width); COCO's are (x, y, width, height)"
        )
    reach = [_reach(part) for part in (confident, truth)]
    ratio = reach[0] / max(reach[1], 1e-9)
    if not 0.5 <= ratio <= 2:
        return (
            f"{start}: they reach to {reach[0]:.0f} pixels, those of the ground truth to "
            f"{reach[1]:.0f}; the images or the annotations are of another size: check width and "
            f"height in {ground_truth.name}"
        )
    return (
        f"{start}; check that the box order is COCO's (x, y, width, height) in both annotation "
        "files, and that the images are those that were annotated (size, rotation, file names)"
    )


def _reach(results: Results) -> float:
    """How far right and down boxes reach, in pixels; a few strays do not count."""
    return float(np.quantile((results.boxes[:, :2] + results.boxes[:, 2:]).max(axis=1), 0.9))


def _wrong_class(wanted: Ids, found: Ids, ground_truth: GroundTruth, class_map: ClassMap) -> str:
    """Boxes are met by detections of other classes; ``wanted`` and ``found`` are category ids."""
    index_of, names = class_map.index_of, ground_truth.categories
    pairs = Counter((w, f) for w, f in zip(wanted.tolist(), found.tolist()) if w != f)
    shown = ", ".join(f"{names[w]} as {names[f]}" for (w, f), _ in pairs.most_common(3))
    text = f"boxes are met, but by other classes ({shown})"
    shifts = Counter({0: 0})
    for (w, f), count in pairs.items():
        shifts[index_of[f] - index_of[w]] += count
    shift, count = shifts.most_common(1)[0]
    if count >= 0.9 * len(wanted) and len(pairs) > 1:
        return (
            f"{text}: class indices are shifted by {shift:+d}; category ids of the training and "
            "the validation file do not mean the same, or the weights count from another id"
        )
    return (
        f"{text}; check that ids and names of the categories are the same in the training and the "
        "validation file and in the class map of the weights"
    )
