# SPDX-License-Identifier: Apache-2.0
import contextlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effdet.errors import DataError, EffdetError, UsageError
from effdet.evaluation import coco
from effdet.evaluation.coco import CocoEvaluator, Metrics, score_files
from effdet.evaluation.report import write_results
from effdet.structures import ClassMap, Detections

DATA = Path(os.environ.get("EFFDET_TEST_DATA", Path(__file__).parents[2].parent / "shared/data"))
GOLDEN = DATA / "coco_eval_golden"
PUBLISHED = {
    "AP": 0.504581, "AP50": 0.696973, "AP75": 0.572982,
    "APs": 0.585626, "APm": 0.519400, "APl": 0.501398,
    "AR1": 0.386813, "AR10": 0.593680, "AR100": 0.595353,
    "ARs": 0.639811, "ARm": 0.566421, "ARl": 0.564291,
}  # fmt: skip

BACKENDS = ("faster", "pycocotools")
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "owl"}]
CLASS_MAP = ClassMap.from_categories(CATEGORIES)  # indices 0, 1, 2 are ids 3, 7, 90


def ground_truth(*annotations: dict[str, Any], images: int = 2) -> dict[str, Any]:
    rows = [{"id": i, "iscrowd": 0} | row for i, row in enumerate(annotations)]
    for row in rows:
        row.setdefault("area", row["bbox"][2] * row["bbox"][3])
    return {
        "images": [{"id": i, "height": 500, "width": 500} for i in range(1, images + 1)],
        "annotations": rows,
        "categories": CATEGORIES,
    }


def box(image_id: int, category_id: int, *xywh: float, **more: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": list(xywh)} | more


def detections(*rows: tuple[float, ...]) -> Detections:
    """Rows of (x1, y1, x2, y2, score, label)."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(boxes=values[:, :4], scores=values[:, 4], labels=values[:, 5].long())


def crowded_scene(seed: int = 0) -> tuple[dict[str, Any], dict[int, Detections]]:
    """Boxes of all sizes with crowds, empty images, equal scores, and imperfect detections."""
    rng = np.random.default_rng(seed)
    annotations, found = [], {}
    for image_id in range(1, 13):
        rows = []
        for _ in range(0 if image_id in (4, 9) else rng.integers(1, 9)):
            x, y, side = rng.uniform(0, 200), rng.uniform(0, 200), rng.choice([15, 60, 180])
            width, height = rng.uniform(0.7, 1.3, 2) * side
            label = int(rng.integers(2))  # the owl has no box
            crowd = int(rng.random() < 0.15)
            category_id = CLASS_MAP.category_ids[label]
            annotations.append(box(image_id, category_id, x, y, width, height, iscrowd=crowd))
            for _ in range(rng.integers(0, 4)):
                x1, y1 = np.array([x, y]) + rng.normal(0, 0.06 * side, 2)
                w, h = np.array([width, height]) * rng.uniform(0.85, 1.2, 2)
                score = round(float(rng.random()), 1)  # many equal scores
                rows.append((x1, y1, x1 + w, y1 + h, score, int(rng.integers(3))))
                rows[-1] = (*rows[-1][:5], label if rng.random() < 0.9 else rows[-1][5])
        rows.sort(key=lambda row: -row[4])
        found[image_id] = detections(*rows)
    del found[12]  # the ground truth's last image is never seen
    return ground_truth(*annotations, images=12), found


def evaluate(
    truth: dict[str, Any], found: dict[int, Detections], backend: str = "faster"
) -> Metrics:
    evaluator = CocoEvaluator(truth, CLASS_MAP, backend)
    for image_id, detections_of_image in found.items():
        evaluator.update(image_id, detections_of_image)
    return evaluator.evaluate()


@pytest.mark.parametrize("backend", BACKENDS)
def test_published_figures_are_reproduced(backend: str) -> None:
    if not GOLDEN.is_dir():
        pytest.skip(f"{GOLDEN} is not there (EFFDET_TEST_DATA names the folder with test data)")
    metrics = score_files(
        GOLDEN / "instances_val2014_100.json",
        GOLDEN / "instances_val2014_fakebbox100_results.json",
        backend,
    )
    assert list(metrics.figures) == list(PUBLISHED)
    assert metrics.figures == pytest.approx(PUBLISHED, abs=5e-7)
    assert (metrics.images, len(metrics.per_class)) == (100, 80)


def test_figures_are_those_of_cocoeval_run_by_hand(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = crowded_scene()
    for number, row in enumerate(truth["annotations"], start=1):
        row["id"] = number
    evaluator = CocoEvaluator(truth, CLASS_MAP)
    for image_id, detections_of_image in found.items():
        evaluator.update(image_id, detections_of_image)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    write_results(evaluator.results(), tmp_path / "results.json")
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(str(tmp_path / "truth.json"))
        results = annotations.loadRes(str(tmp_path / "results.json"))
        reference = COCOeval(annotations, results, "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    assert 0.1 < reference.stats[0] < 0.9
    assert list(evaluator.evaluate().figures.values()) == pytest.approx(
        reference.stats.tolist(), abs=1e-9
    )


@pytest.mark.parametrize("seed", range(5))
def test_both_backends_agree(seed: int) -> None:
    truth, found = crowded_scene(seed)
    faster, reference = (evaluate(truth, found, backend) for backend in BACKENDS)
    assert faster.figures == pytest.approx(reference.figures, abs=1e-9)
    for row, expected in zip(faster.per_class, reference.per_class, strict=True):
        assert (row.name, row.boxes) == (expected.name, expected.boxes)
        assert (row.ap, row.ap50) == pytest.approx((expected.ap, expected.ap50), abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_box_found_exactly_has_ap_1_and_a_missed_one_halves_recall(backend: str) -> None:
    truth = ground_truth(box(1, 7, 10, 20, 50, 60), box(2, 7, 10, 20, 50, 60))
    one = evaluate(truth, {1: detections((10, 20, 60, 80, 0.9, 1))}, backend)
    # Precision 1 at the 51 recall levels 0.00 to 0.50 of 101.
    assert one.figures["AP"] == pytest.approx(51 / 101)
    assert one.figures["AR1"] == pytest.approx(0.5)
    found = {i: detections((10, 20, 60, 80, 0.9, 1)) for i in (1, 2)}
    assert evaluate(truth, found, backend).figures["AP"] == pytest.approx(1.0)


def test_an_annotation_with_id_0_is_matched_like_any_other() -> None:
    truth = ground_truth(box(1, 7, 10, 20, 50, 60))
    assert truth["annotations"][0]["id"] == 0
    for backend in BACKENDS:
        metrics = evaluate(truth, {1: detections((10, 20, 60, 80, 0.9, 1))}, backend)
        assert metrics.figures["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_figures_without_a_box_to_find_are_none(backend: str) -> None:
    truth = ground_truth(box(1, 7, 10, 20, 50, 60), box(2, 3, 0, 0, 40, 40, iscrowd=1))
    metrics = evaluate(truth, {1: detections((10, 20, 60, 80, 0.9, 1))}, backend)
    none = {name for name, value in metrics.figures.items() if value is None}
    assert none == {"APs", "APl", "ARs", "ARl"}
    rows = [(row.category_id, row.name, row.boxes, row.ap) for row in metrics.per_class]
    assert rows == [(3, "cat", 0, None), (7, "dog", 1, pytest.approx(1.0)), (90, "owl", 0, None)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_at_all_score_zero(backend: str) -> None:
    truth = ground_truth(box(1, 7, 10, 20, 50, 60))
    assert evaluate(truth, {}, backend).figures["AP"] == 0
    assert evaluate(truth, {1: detections()}, backend).figures["AR100"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ground_truth_without_boxes_gives_no_figures(backend: str) -> None:
    metrics = evaluate(ground_truth(), {1: detections((0, 0, 9, 9, 0.5, 1))}, backend)
    assert set(metrics.figures.values()) == {None}


def test_images_never_seen_count_as_missed() -> None:
    truth = ground_truth(box(1, 7, 0, 0, 50, 50), box(2, 7, 0, 0, 50, 50))
    metrics = evaluate(truth, {1: detections((0, 0, 50, 50, 0.9, 1))})
    assert metrics.figures["AR100"] == pytest.approx(0.5)
    assert metrics.images == 2


def test_a_missing_area_is_that_of_the_box() -> None:
    truth = ground_truth(box(1, 7, 10, 20, 50, 60))
    for key in ("area", "iscrowd"):
        del truth["annotations"][0][key]
    for backend in BACKENDS:
        metrics = evaluate(truth, {1: detections((10, 20, 60, 80, 0.9, 1))}, backend)
        assert metrics.figures["APm"] == pytest.approx(1.0)
        assert metrics.figures["APl"] is None


def test_the_order_of_images_does_not_matter() -> None:
    truth, found = crowded_scene(3)
    backwards = dict(reversed(found.items()))
    assert evaluate(truth, backwards) == evaluate(truth, found)


def test_evaluating_twice_gives_the_same() -> None:
    truth, found = crowded_scene(4)
    evaluator = CocoEvaluator(truth, CLASS_MAP)
    for image_id, detections_of_image in found.items():
        evaluator.update(image_id, detections_of_image)
    assert evaluator.evaluate() == evaluator.evaluate()


def test_results_have_original_category_ids_and_xywh_boxes() -> None:
    evaluator = CocoEvaluator(ground_truth(), CLASS_MAP)
    evaluator.update(2, detections((1, 2, 4, 8, 0.5, 0), (0, 0, 5, 5, 0.25, 2)))
    evaluator.update(1, detections((5, 5, 6, 7, 0.75, 1)))
    assert list(evaluator.results()) == [
        box(1, 7, 5, 5, 1, 2, score=0.75),
        box(2, 3, 1, 2, 3, 6, score=0.5),
        box(2, 90, 0, 0, 5, 5, score=0.25),
    ]
    assert evaluator.num_images == 2


def test_classes_without_a_category_are_left_out_and_counted() -> None:
    class_map = ClassMap((None, "emu", "cat", "dog", "owl"), (None, 1, 3, 7, 90))
    evaluator = CocoEvaluator(ground_truth(), class_map)
    evaluator.update(1, detections((0, 0, 5, 5, 0.9, 1), (0, 0, 5, 5, 0.8, 4)))
    evaluator.update(2, detections((0, 0, 5, 5, 0.7, 0)))
    assert [entry["category_id"] for entry in evaluator.results()] == [90]
    assert (evaluator.num_left_out, evaluator.num_images) == (2, 2)


def test_categories_that_the_model_lacks_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 of 3 ids are not .* 3 \(cat\), 90 \(owl\)"):
        CocoEvaluator(ground_truth(), ClassMap(("dog",), (7,)))


def test_each_image_counts_once() -> None:
    evaluator = CocoEvaluator(ground_truth(), CLASS_MAP)
    evaluator.update(1, detections())
    with pytest.raises(ValueError, match="image id 1 was taken before"):
        evaluator.update(1, detections())
    with pytest.raises(ValueError, match="image id 99 is not in"):
        evaluator.update(99, detections())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, 0, float("nan"), 5, 0.5, 1), "finite"),
        ((0, 0, float("inf"), 5, 0.5, 1), "finite"),
        ((0, 0, 5, 5, float("nan"), 1), "finite"),
        ((6, 0, 5, 5, 0.5, 1), "x1 <= x2"),
        ((0, 0, 5, 5, 0.5, 3), "labels must be in 0 to 2"),
        ((0, 0, 5, 5, 0.5, -1), "labels must be in 0 to 2"),
    ],
)
def test_impossible_detections_are_refused(row: tuple[float, ...], message: str) -> None:
    evaluator = CocoEvaluator(ground_truth(), CLASS_MAP)
    with pytest.raises(ValueError, match=f"image id 1: .*{message}"):
        evaluator.update(1, detections(row))
    assert evaluator.num_images == 0


def test_boxes_scores_and_labels_must_be_of_one_length() -> None:
    two = detections((0, 0, 5, 5, 0.5, 1), (0, 0, 5, 5, 0.5, 1))
    with pytest.raises(ValueError, match="2, 1 and 2 boxes, scores and labels"):
        CocoEvaluator(ground_truth(), CLASS_MAP).update(1, replace(two, scores=two.scores[:1]))


def two_processes(monkeypatch: pytest.MonkeyPatch, images: list[dict[int, Detections]]) -> Any:
    """The main process's evaluator, after both took their images."""
    truth, _ = crowded_scene(2)
    main, other = (CocoEvaluator(truth, CLASS_MAP) for _ in range(2))
    for evaluator, found in zip((main, other), images, strict=True):
        for image_id, detections_of_image in found.items():
            evaluator.update(image_id, detections_of_image)
    sent: list[Any] = []
    monkeypatch.setattr(coco, "gather_to_main", sent.append)
    assert other.gather() is False
    assert (len(other.results()), other.num_images) == (0, 0)
    monkeypatch.setattr(coco, "gather_to_main", lambda value: [value, *sent])
    assert main.gather() is True
    return main


def test_two_processes_give_exactly_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = crowded_scene(2)
    parts = [{i: d for i, d in found.items() if i % 2 == rest} for rest in (0, 1)]
    main = two_processes(monkeypatch, parts)
    single = CocoEvaluator(truth, CLASS_MAP)
    for image_id, detections_of_image in found.items():
        single.update(image_id, detections_of_image)
    assert main.num_images == single.num_images
    assert list(main.results()) == list(single.results())
    assert main.evaluate() == single.evaluate()


def test_an_image_taken_by_two_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="image id 5 was taken by two processes"):
        two_processes(monkeypatch, [{5: detections(), 6: detections()}, {5: detections()}])


def test_gathering_alone_changes_nothing() -> None:
    truth, found = crowded_scene()
    evaluator = CocoEvaluator(truth, CLASS_MAP)
    for image_id, detections_of_image in found.items():
        evaluator.update(image_id, detections_of_image)
    before = evaluator.evaluate()
    assert evaluator.gather() is True
    assert evaluator.evaluate() == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_prints_nothing(backend: str, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(*crowded_scene(), backend)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_library_is_named(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = "faster-coco-eval" if backend == "faster" else "pycocotools"
    for module in (package.replace("-", "_"), f"{package}.coco"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(EffdetError, match=f"pip install {package}"):
        CocoEvaluator(ground_truth(), CLASS_MAP, backend)


def test_an_unknown_evaluator_is_refused() -> None:
    with pytest.raises(UsageError, match="faster or pycocotools, got 'coco'"):
        CocoEvaluator(ground_truth(), CLASS_MAP, "coco")
