# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest

from effdet.evaluation.coco import ClassFigures, Metrics
from effdet.evaluation.files import Results
from effdet.evaluation.report import format_metrics, write_metrics, write_results

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def class_figures(category_id: int, name: str, ap: float | None) -> ClassFigures:
    return ClassFigures(category_id=category_id, name=name, boxes=category_id * 10, ap=ap, ap50=ap)


METRICS = Metrics(
    figures={name: None if name == "APs" else 0.05 * i for i, name in enumerate(NAMES)},
    per_class=(
        class_figures(1, "cat", 0.25),
        class_figures(4, "fire hydrant", None),
        class_figures(7, "dog", 0.5),
    ),
    images=12,
)
RESULTS = Results(
    image_ids=np.array([1, 2]),
    category_ids=np.array([7, 90]),
    boxes=np.array([[1.5, 2, 3, 4], [0.1, 0, 1 / 3, 1]]),
    scores=np.array([0.5, 0.1]),
)


def test_the_text_shows_all_figures_with_a_dash_for_none() -> None:
    lines = format_metrics(METRICS).splitlines()
    assert lines[0] == "12 images"
    assert [line.split()[0] for line in lines[1:13]] == NAMES
    assert lines[2].split()[1] == "0.050"
    assert lines[4].split()[1] == "-"


def test_classes_come_best_first_and_those_without_boxes_last() -> None:
    table = format_metrics(METRICS).splitlines()[14:]
    assert table == [
        "  class             AP    AP50    boxes",
        "  dog            0.500   0.500       70",
        "  cat            0.250   0.250       10",
        "  fire hydrant       -       -       40",
    ]


def test_a_single_class_needs_no_table() -> None:
    single = Metrics(figures=METRICS.figures, per_class=METRICS.per_class[:1], images=1)
    assert len(format_metrics(single).splitlines()) == 13


def test_metrics_are_written_under_cocos_names_with_null_for_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(METRICS, path)
    read = json.loads(path.read_text())
    assert {name: read[name] for name in NAMES} == METRICS.figures
    assert read["per_class"][1] == {
        "category_id": 4, "name": "fire hydrant", "boxes": 40, "AP": None, "AP50": None,
    }  # fmt: skip
    assert read["images"] == 12


def test_results_are_written_in_full(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(RESULTS, path)
    assert json.loads(path.read_text()) == list(RESULTS)
    write_results(Results.join([]), path)
    assert json.loads(path.read_text()) == []


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")
    write_metrics(METRICS, path)
    assert "AP50" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    broken = Results(
        image_ids=RESULTS.image_ids,
        category_ids=RESULTS.category_ids,
        boxes=RESULTS.boxes,
        scores=np.array([0.5, np.nan]),
    )
    with pytest.raises(ValueError, match="must be finite"):
        write_results(broken, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
