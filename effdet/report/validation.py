# SPDX-License-Identifier: Apache-2.0
"""Tables and charts of what a model finds, and what it does not."""

import numpy as np

from effdet.evaluation import (
    RECALLS,
    BestF1,
    ClassCurve,
    Fate,
    Kind,
    confusion_matrix,
    count_errors,
)
from effdet.page import Cell, Figure, Section
from effdet.page.charts import Series, bar_chart, heat_map, line_chart
from effdet.report.judged import Judged
from effdet.report.run import share
from effdet.settings import FOR_PEOPLE

MOST_CURVES = 12
"""Classes with a curve of their own; of more, those with most boxes."""
UNSURE = 0.05
"""A model whose best score threshold is below this is not yet of use as it is."""
MOST_CONFUSED = 20
"""Classes in the confusion matrix; of more, those with most mistakes among them."""

_KINDS = {
    Kind.CORRECT: "correct",
    Kind.WRONG_CLASS: "wrong class",
    Kind.DUPLICATE: "duplicate",
    Kind.MISPLACED: "misplaced",
    Kind.BACKGROUND: "nothing there",
}
_FATES = {
    Fate.FOUND: "found",
    Fate.WRONG_CLASS: "mistaken",
    Fate.MISPLACED: "only misplaced",
    Fate.MISSED: "missed",
}


def add_curves(section: Section, judged: Judged) -> None:
    """Precision over recall of each class."""
    curves = [curve for curve in judged.curves if curve.precision is not None]
    shown = sorted(curves, key=lambda curve: -curve.boxes)[:MOST_CURVES]
    shown.sort(key=lambda curve: -(curve.ap50 or 0.0))
    lines = [Series(name=f"{c.name} {c.ap50:.2f}", x=RECALLS, y=c.precision or ()) for c in shown]
    if len(curves) > 1:
        mean = np.mean([c.precision or () for c in curves], axis=0).tolist()
        name = f"mean {sum(c.ap50 or 0.0 for c in curves) / len(curves):.2f}"
        lines.append(Series(name=name, x=RECALLS, y=mean, color=12))
    chart = line_chart(
        lines,
        title="precision over recall",
        x_label="recall",
        y_label="precision",
        x_range=(0, 1),
        y_range=(0, 1),
    )
    cut = f" Of {len(curves)} classes those with most boxes." if len(curves) > len(shown) else ""
    caption = (
        "Precision at IoU 0.5 over recall, as COCO's AP50 averages it; the number is AP50. Where a "
        f"curve falls to 0, the rest of the boxes is found at no score.{cut}"
    )
    section.figures([Figure(svg=chart, caption=caption)])


def add_classes(section: Section, judged: Judged) -> None:
    """AP by class and size, and the best score threshold."""
    rows = [[c.name, *_class_cells(c, judged.best.get(c.category_id))] for c in judged.curves]
    section.table(
        ["class", "boxes", "AP", "AP50", "AP75", "small", "medium", "large",
         "best F1", "at score", "precision", "recall"],
        rows,
        numeric=range(1, 12),
        caption="AP over IoU 0.50 to 0.95; small, medium and large are its parts by box area "
        "(below 32 x 32 pixels, above 96 x 96). The best F1 at IoU 0.5, the score threshold that "
        "gives it, and precision and recall there. A dash: the class has no box of that size, or "
        "(from best F1 on) no correct detection.",
    )  # fmt: skip


def _class_cells(curve: ClassCurve, best: BestF1 | None) -> list[Cell]:
    aps = [curve.ap["all"], curve.ap50, curve.ap75]
    aps += [curve.ap[size] for size in ("small", "medium", "large")]
    at_best = [None] * 4 if best is None else [best.f1, best.threshold, best.precision, best.recall]
    return [curve.boxes, *map(share, (*aps, *at_best))]


def add_confusion(section: Section, judged: Judged) -> None:
    """The confusion matrix, of the classes with most mistakes where there are many."""
    names = judged.truth.categories
    matrix = confusion_matrix(judged.matching, list(names))
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    order = sorted(range(len(names)), key=lambda i: -int(mistakes[i]))[:MOST_CONFUSED]
    kept = [*sorted(order), len(names)]
    labels = [list(names.values())[i] for i in kept[:-1]]
    cells: list[list[float | None]] = [[int(matrix[r, c]) for c in kept] for r in kept]
    cells[-1][-1] = None
    chart = heat_map(
        cells, [*labels, "no box"], [*labels, "not found"], title="confusion matrix",
        x_label="columns: found as", y_label="rows: class of the box", by_row=True,
    )  # fmt: skip
    cut = f" The {len(order)} of {len(names)} classes with most mistakes." * (
        len(order) < len(names)
    )
    caption = (
        "A row is the class that boxes have in the annotations, a column the class that the model "
        f"found them as, at IoU 0.5 and a score of at least {share(judged.threshold)}. Last "
        "column: boxes that were not found; last row: detections where there is no box. The "
        f"diagonal is right; colours show the share of the row. Crowd regions do not count.{cut}"
    )
    section.figures([Figure(svg=chart, caption=caption, wide=True)])


def _note_low_threshold(section: Section, judged: Judged) -> None:
    best = judged.best[None]
    if best is not None and best.threshold < UNSURE:
        section.note(
            f"F1 is best at a score of only {best.threshold:.2g}: the model is sure of nothing "
            "that it finds, mostly after too few epochs. effdet predict shows what is scored above "
            f"{FOR_PEOPLE.score_threshold:g}: train for longer, or give it --score-threshold."
        )


def add_errors(section: Section, judged: Judged) -> None:
    """Detections by kind and boxes by fate, of all classes and of each."""
    _note_low_threshold(section, judged)
    counts = count_errors(judged.matching)
    found = bar_chart(
        list(_KINDS.values()), {"n": [counts.detections[k] for k in _KINDS]},
        title="detections by kind", x_label="detections",
    )  # fmt: skip
    boxes = bar_chart(
        list(_FATES.values()), {"n": [counts.boxes[f] for f in _FATES]},
        title="boxes by what became of them", x_label="boxes",
    )  # fmt: skip
    section.figures(
        [
            Figure(
                svg=found,
                caption="What the detections are. Wrong class: on a box of another class. "
                "Duplicate: on a box that a better detection has. Misplaced: overlaps with a box "
                "of its class by an IoU of 0.1 to 0.5. Nothing there: all others.",
            ),
            Figure(
                svg=boxes,
                caption="What became of the boxes. Mistaken: on it is only a detection of another "
                "class. Missed: not even a misplaced one.",
            ),
        ]
    )
    names = judged.truth.categories
    of_class = {i: count_errors(judged.matching, i) for i in names}
    section.table(
        ["detections of", *_KINDS.values()],
        [[name, *(of_class[i].detections[k] for k in _KINDS)] for i, name in names.items()],
        numeric=range(1, len(_KINDS) + 1),
    )
    section.table(
        ["boxes of", *_FATES.values()],
        [[name, *(of_class[i].boxes[f] for f in _FATES)] for i, name in names.items()],
        numeric=range(1, len(_FATES) + 1),
    )
