# SPDX-License-Identifier: Apache-2.0
"""Which detection belongs to which box, and what is wrong with those that belong to none."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.annotations.table import Floats, Ids
from effdet.boxes import box_iou
from effdet.evaluation.files import GroundTruth, Results

NEAR = 0.1
"""IoU from which a detection that does not meet a box was still meant for it."""


class Kind(IntEnum):
    """What a detection is.

    ``CORRECT``: it meets a box of its class, of all that do the first by score. ``WRONG_CLASS``:
    it meets none of its class, but one of another. ``DUPLICATE``: it meets a box of its class that
    a better detection has. ``MISPLACED``: it overlaps with a box of its class, but too little.
    ``BACKGROUND``: there is nothing of its class. ``IGNORED``: on a crowd region of its class.
    """

    CORRECT = 0
    WRONG_CLASS = 1
    DUPLICATE = 2
    MISPLACED = 3
    BACKGROUND = 4
    IGNORED = 5


class Fate(IntEnum):
    """What became of a box.

    ``FOUND``: a detection is correct for it. Else, in this order: ``WRONG_CLASS``: one of another
    class meets it. ``MISPLACED``: one of its class overlaps with it, but too little. ``MISSED``:
    none of these.
    """

    FOUND = 0
    WRONG_CLASS = 1
    MISPLACED = 2
    MISSED = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Matching:
    """Detections and boxes of all images, and how they belong together.

    Attributes:
        truth: the ``M`` boxes to be found, crowd regions left out, in rising order of image id.
        found: the ``N`` detections, in rising order of image id, best first within an image.
        kinds: ``[N]`` of :class:`Kind`.
        fates: ``[M]`` of :class:`Fate`.
        partner: ``[N]`` row in ``truth`` of the box that a detection has to itself, -1 for none:
            of its own class where it is correct, and of another where both would else have none.
    """

    truth: Results
    found: Results
    kinds: Ids
    fates: Ids
    partner: Ids


def match(
    ground_truth: GroundTruth,
    results: Results,
    *,
    score_threshold: float = 0.0,
    iou_threshold: float = 0.5,
) -> Matching:
    """Match detections with boxes, greedily by score, and judge both.

    As in COCO's figures a detection takes the box of its class that it overlaps most with, of those
    that no better one has taken. Of what is left over, detections then take boxes of other classes
    in the same way. "Meets" is an IoU of at least ``iou_threshold``. A detection that is not
    correct and lies by that share in a crowd region of its class is neither right nor wrong.

    This is in the spirit of TIDE (https://arxiv.org/abs/2008.08115), but counts where that measures
    what each kind costs in AP, and knows no mixed kinds.

    Args:
        ground_truth: what was to be found.
        results: the detections.
        score_threshold: only those with at least this score are looked at.
        iou_threshold: overlap from which a box is met.
    """
    crowd = truth_boxes(ground_truth, crowd=True)
    truth = truth_boxes(ground_truth)
    found = _by_image_and_score(select(results, results.scores >= score_threshold))
    kinds = np.full(len(found), Kind.BACKGROUND, np.int64)
    fates = np.full(len(truth), Fate.MISSED, np.int64)
    partner = np.full(len(found), -1, np.int64)
    truth_xyxy, found_xyxy, crowd_xyxy = map(xyxy, (truth.boxes, found.boxes, crowd.boxes))
    for image_id in np.union1d(found.image_ids, truth.image_ids):
        rows, columns = image_rows(truth, image_id), image_rows(found, image_id)
        regions = image_rows(crowd, image_id)
        covered = _covered(found_xyxy[columns], crowd_xyxy[regions]) >= iou_threshold
        same = crowd.category_ids[regions][:, None] == found.category_ids[columns][None]
        image = _Image(
            iou=box_iou(truth_xyxy[rows], found_xyxy[columns]).numpy(),
            same=truth.category_ids[rows][:, None] == found.category_ids[columns][None],
            in_crowd=(covered & same).any(axis=0),
            threshold=iou_threshold,
        )
        kinds[columns], fates[rows] = image.judge()
        partner[columns] = np.where(image.partner >= 0, image.partner + rows.start, -1)
    return Matching(truth=truth, found=found, kinds=kinds, fates=fates, partner=partner)


class _Image:
    """One image.

    Args:
        iou: ``[M, N]`` of boxes with detections, these best first.
        same: ``[M, N]``, where the class is the same.
        in_crowd: ``[N]``, which lie in a crowd region.
        threshold: IoU from which a box is met.

    Attributes:
        partner: ``[N]`` row of the box that each detection has to itself, -1 for none.
    """

    def __init__(
        self,
        iou: Floats,
        same: NDArray[np.bool_],
        in_crowd: NDArray[np.bool_],
        threshold: float,
    ) -> None:
        self.iou, self.same, self.meets = iou, same, iou >= threshold
        self.in_crowd = in_crowd
        self.partner = np.full(iou.shape[1], -1, np.int64)
        self._free = np.ones(iou.shape[0], bool)
        self._take(self.meets & same)
        self.correct = self.partner >= 0
        self._take(self.meets & ~same & ~in_crowd)

    def _take(self, may: NDArray[np.bool_]) -> None:
        """Give boxes to detections that have none, best first, where they ``may`` have them."""
        for column in np.flatnonzero(may.any(axis=0) & (self.partner < 0)):
            overlap = np.where(may[:, column] & self._free, self.iou[:, column], -1)
            if overlap.max() >= 0:
                row = self.partner[column] = overlap.argmax()
                self._free[row] = False

    def judge(self) -> tuple[Ids, Ids]:
        """The kinds of the detections and the fates of the boxes."""
        near = self.same & (self.iou >= NEAR) & ~self.meets
        other = self.meets & ~self.same
        kinds = np.select(
            [
                self.correct,
                self.in_crowd,
                (self.meets & self.same).any(axis=0),
                other.any(axis=0),
                near.any(axis=0),
            ],
            [Kind.CORRECT, Kind.IGNORED, Kind.DUPLICATE, Kind.WRONG_CLASS, Kind.MISPLACED],
            Kind.BACKGROUND,
        )
        taken = np.zeros(self.iou.shape[0], bool)
        taken[self.partner[self.correct]] = True
        fates = np.select(
            [taken, other.any(axis=1), near.any(axis=1)],
            [Fate.FOUND, Fate.WRONG_CLASS, Fate.MISPLACED],
            Fate.MISSED,
        )
        return kinds, fates


def truth_boxes(ground_truth: GroundTruth, *, crowd: bool = False) -> Results:
    """The boxes to be found in the form of results; or the crowd regions."""
    rows = [row for row in ground_truth.annotations if bool(row["iscrowd"]) == crowd]
    boxes = Results(
        image_ids=np.array([row["image_id"] for row in rows], np.int64),
        category_ids=np.array([row["category_id"] for row in rows], np.int64),
        boxes=np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        scores=np.ones(len(rows)),
    )
    return Results.join([boxes])


def select(results: Results, which: NDArray[np.bool_] | Ids) -> Results:
    """The rows that a mask or an index array selects."""
    return Results(
        image_ids=results.image_ids[which],
        category_ids=results.category_ids[which],
        boxes=results.boxes[which],
        scores=results.scores[which],
    )


def image_rows(results: Results, image_id: int) -> slice:
    """Where an image's rows are in results that are in rising order of image id."""
    first, last = (np.searchsorted(results.image_ids, image_id, side) for side in ("left", "right"))
    return slice(int(first), int(last))


def xyxy(boxes: Floats) -> Tensor:
    """``[N, 4]`` boxes (x, y, width, height) as corners."""
    return torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))


def _by_image_and_score(results: Results) -> Results:
    return select(results, np.lexsort((-results.scores, results.image_ids)))


def _covered(boxes: Tensor, regions: Tensor) -> Floats:
    """``[R, N]`` shares of each box's area that lie within each region."""
    corner = torch.maximum(boxes[None, :, :2], regions[:, None, :2])
    end = torch.minimum(boxes[None, :, 2:], regions[:, None, 2:])
    inside = (end - corner).clamp(min=0).prod(dim=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    covered: Floats = (inside / area.clamp(min=1e-9)).numpy()
    return covered
