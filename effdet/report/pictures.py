# SPDX-License-Identifier: Apache-2.0
"""Predictions beside ground truth."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from effdet.counts import counted
from effdet.data import CocoDataset
from effdet.drawing import Color, draw_boxes, to_picture
from effdet.errors import DataError, printable
from effdet.evaluation import Fate, Kind, Results
from effdet.evaluation.matching import image_rows, select, xyxy
from effdet.names import shown_name
from effdet.report.judged import Judged

SIDE = 560
"""Pixels of the longer side of each of the two pictures."""
MOST_LABELS = 12
"""Boxes in a picture that are all labelled; of more only those that are wrong."""

MOST_FALSE = 10
"""False detections in a picture, those with the highest scores; more would hide it."""

RIGHT: Color = (86, 180, 233)
WRONG: Color = (230, 97, 0)
"""Blue and orange, which colour-blind eyes tell apart."""

_KINDS = {
    Kind.WRONG_CLASS: "wrong class",
    Kind.DUPLICATE: "duplicate",
    Kind.MISPLACED: "misplaced",
    Kind.BACKGROUND: "nothing there",
    Kind.IGNORED: "in a crowd",
}

LEGEND = (
    "Left (on a narrow screen above) the ground truth, right the detections. Blue boxes are found "
    f"and correct, orange ones are missed (left) or wrong (right); at most {MOST_FALSE} wrong "
    "detections are drawn in a picture, those with the highest scores."
)


def pairs(
    judged: Judged, dataset: CocoDataset, image_ids: Sequence[int]
) -> Iterator[tuple[Image.Image, Image.Image, str]]:
    """Ground truth, detections and a caption of each image that can be read."""
    index_of = {image_id: index for index, image_id in enumerate(dataset.image_ids.tolist())}
    for image_id in image_ids:
        index = index_of[image_id]
        try:
            picture = to_picture(dataset.load(index)[0])
        except DataError:
            continue
        truth, found, caption = drawn_boxes(judged, image_id)
        name = printable(dataset.path(index).name)
        yield _side(picture, truth), _side(picture, found), f"{name}: {caption}"


Boxes = tuple[Results, list[str], list[bool]]
"""Boxes with a word to each, and which of them are wrong."""


def drawn_boxes(judged: Judged, image_id: int) -> tuple[Boxes, Boxes, str]:
    """What is to be drawn on the left and on the right, and the counts in words."""
    matching, names = judged.matching, judged.truth.categories
    rows, columns = (image_rows(r, image_id) for r in (matching.truth, matching.found))
    truth, found = _take(matching.truth, rows), _take(matching.found, columns)
    missed = (matching.fates[rows] != Fate.FOUND).tolist()
    kinds = [Kind(kind) for kind in matching.kinds[columns]]
    left = [shown_name(names[i]) + " missed" * m for i, m in zip(truth.category_ids, missed)]
    right = [
        f"{shown_name(names[i])} {score:.2f} {_KINDS.get(kind, '')}".strip()
        for i, score, kind in zip(found.category_ids, found.scores, kinds)
    ]
    wrong = [kind not in (Kind.CORRECT, Kind.IGNORED) for kind in kinds]
    counts = f"{counted(len(truth), 'box', 'boxes')}, {sum(missed)} missed, {sum(wrong)} false"
    hidden = np.flatnonzero(wrong)[np.argsort(-found.scores[wrong], kind="stable")][MOST_FALSE:]
    if len(hidden):
        counts += f" ({len(hidden)} of them not drawn)"
    shown = np.delete(np.arange(len(found)), hidden)
    drawn = select(found, shown), [right[i] for i in shown], [wrong[i] for i in shown]
    return (truth, left, missed), drawn, counts


def _take(results: Results, rows: slice) -> Results:
    return select(results, np.arange(rows.start, rows.stop))


def _side(picture: Image.Image, content: Boxes) -> Image.Image:
    boxes, labels, wrong = content
    factor = SIDE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    resized = picture.resize(size)
    if len(labels) > MOST_LABELS:
        labels = [label if bad else "" for label, bad in zip(labels, wrong)]
    order = sorted(range(len(wrong)), key=lambda i: not wrong[i])  # the wrong ones on top
    draw_boxes(
        resized,
        xyxy(boxes.boxes)[order].float() * factor,
        [labels[i] for i in order],
        [WRONG if wrong[i] else RIGHT for i in order],
    )
    return resized
