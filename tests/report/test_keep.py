# SPDX-License-Identifier: Apache-2.0
"""What a run keeps, that it is whole, and that keeping it changes nothing."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import effdet.keepsakes.keep
from effdet.config import model_config
from effdet.data import CocoDataset
from effdet.evaluation import GroundTruth, Results, score_files
from effdet.keepsakes import Keepsakes, Validation
from effdet.keepsakes.batches import draw_batch
from effdet.structures import Batch, ClassMap, Target
from tests.tiny import TINY, differing, final_state, tiny_model, train_here

CONFIG = model_config("efficientdet_lite0", num_classes=2, image_size=(64, 64))
CLASS_MAP = ClassMap.from_categories([{"id": 1, "name": "green"}, {"id": 2, "name": "blue"}])


def batch(images: int = 3) -> Batch:
    target = Target(
        boxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]]),
        labels=torch.tensor([1]),
        crowd=torch.tensor([False]),
        image_id=1,
        scale=1.0,
        size=(64, 64),
    )
    pixels = torch.zeros(images, 3, 64, 64)
    return Batch(images=pixels, targets=[target] * images)


def results(*scores: float) -> Results:
    number = len(scores)
    return Results(
        image_ids=np.arange(1, number + 1),
        category_ids=np.ones(number, np.int64),
        boxes=np.tile([4.0, 4.0, 28.0, 24.0], (number, 1)),
        scores=np.array(scores),
    )


@pytest.fixture
def validation(report_data: Path) -> Validation:
    dataset = CocoDataset(report_data / "annotations" / "instances_val.json", report_data / "val")
    truth = GroundTruth.load(report_data / "annotations" / "instances_val.json")
    return Validation(epoch=3, figures={"AP": 0.5, "weights": "ema"}, dataset=dataset, truth=truth)


def test_a_run_keeps_batches_labels_and_detections(tiny_run: Path) -> None:
    names = {path.name for path in (tiny_run / "report").iterdir()}
    best = json.loads((tiny_run / "report" / "best.json").read_text())
    assert names == {
        "labels.json", "batch-1.jpg", "batch-2.jpg", "best.json", "truth.json", best["detections"],
    }  # fmt: skip
    rows = json.loads((tiny_run / "report" / "labels.json").read_text())
    assert {name: split["images"] for name, split in rows.items()} == {"train": 6, "val": 6}


def test_the_kept_detections_give_the_figures_of_the_run(tiny_run: Path) -> None:
    folder = tiny_run / "report"
    best = json.loads((folder / "best.json").read_text())
    metrics = score_files(folder / best["truth"], folder / best["detections"])
    for name in ("AP", "AP50", "AR100"):
        assert metrics.figures[name] == pytest.approx(best["figures"][name], abs=1e-12)


def test_keeping_changes_no_bit_of_the_training(
    tiny_run: Path, report_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nothing(Keepsakes):
        def __init__(self, *arguments: object) -> None:
            super().__init__(None, lambda text: None)

    monkeypatch.setattr("train.Keepsakes", Nothing)
    words = ["--data", report_data, "--epochs", "2", "--batch-size", "2", "--log-every", "1"]
    with tiny_model():
        assert train_here(*TINY, *words, "--output", tmp_path / "run") == 0
        assert differing(final_state(tmp_path / "run"), final_state(tiny_run)) == []
    assert not (tmp_path / "run" / "report").exists()


def test_drawing_a_batch_draws_no_random_number_and_changes_nothing() -> None:
    given = batch()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    pixels = given.images.clone()
    sheet = draw_batch(given, CONFIG, CLASS_MAP)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.equal(given.images, pixels)
    assert sheet.size == (2 * 256 + 4, 2 * 256 + 4)  # three images in a square of four
    mean = tuple(round(value) for value in CONFIG.mean)
    assert sheet.getpixel((250, 250)) == mean  # normalised zeros are the mean colour
    colors = {color for _, color in sheet.getcolors(100_000) or []}
    assert len(colors) > 2  # boxes and letters


def test_only_the_first_batches_are_drawn_and_all_are_passed_on(tmp_path: Path) -> None:
    given = [batch() for _ in range(5)]
    passed = list(Keepsakes(tmp_path, pytest.fail).first_batches(given, CONFIG, CLASS_MAP))
    assert all(a is b for a, b in zip(passed, given, strict=True))
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["batch-1.jpg", "batch-2.jpg"]


def test_a_batch_is_drawn_before_it_is_trained_on(tmp_path: Path) -> None:
    def batches() -> Iterator[Batch]:
        yield batch()
        raise OSError("the loader dies")

    source = Keepsakes(tmp_path, pytest.fail).first_batches(batches(), CONFIG, CLASS_MAP)
    next(source)
    with Image.open(tmp_path / "report" / "batch-1.jpg") as picture:
        assert picture.format == "JPEG"


def test_pictures_of_batches_survive_a_resume(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "batch-1.jpg").write_bytes(b"first")
    list(Keepsakes(tmp_path, pytest.fail).first_batches([batch()], CONFIG, CLASS_MAP))
    assert (tmp_path / "report" / "batch-1.jpg").read_bytes() == b"first"


def test_a_better_validation_replaces_the_one_before(
    tmp_path: Path, validation: Validation
) -> None:
    keepsakes = Keepsakes(tmp_path, pytest.fail)
    for epoch, score in ((3, 0.5), (4, 0.6)):
        keepsakes.hold(results(score))
        keepsakes.keep_best(
            Validation(
                epoch=epoch,
                figures=validation.figures,
                dataset=validation.dataset,
                truth=validation.truth,
            )
        )
    folder = tmp_path / "report"
    assert [p.name for p in folder.glob("detections-*")] == ["detections-0004.json"]
    best = json.loads((folder / "best.json").read_text())
    assert (best["epoch"], best["detections"]) == (4, "detections-0004.json")
    assert json.loads((folder / "detections-0004.json").read_text())[0]["score"] == 0.6


def test_a_run_killed_while_keeping_still_has_the_validation_before(
    tmp_path: Path, validation: Validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    keepsakes = Keepsakes(tmp_path, pytest.fail)
    keepsakes.hold(results(0.5))
    keepsakes.keep_best(validation)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(effdet.keepsakes.keep, "write_results", killed)
    keepsakes.hold(results(0.6))
    with pytest.raises(KeyboardInterrupt):
        keepsakes.keep_best(validation)
    folder = tmp_path / "report"
    best = json.loads((folder / "best.json").read_text())
    metrics = score_files(folder / best["truth"], folder / best["detections"])
    assert metrics.figures["AP"] is not None


def test_without_a_new_validation_nothing_is_kept(tmp_path: Path, validation: Validation) -> None:
    Keepsakes(tmp_path, pytest.fail).keep_best(validation)
    assert list((tmp_path / "report").iterdir()) == []


def test_an_error_of_keeping_is_told_once_and_ends_no_run(
    tmp_path: Path, validation: Validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    keepsakes = Keepsakes(tmp_path, told.append)
    (tmp_path / "report").rmdir()
    (tmp_path / "report").write_text("a file in the way")
    list(keepsakes.first_batches([batch()], CONFIG, CLASS_MAP))
    keepsakes.labels({"val": validation.dataset}, (64, 64))
    keepsakes.hold(results(0.5))
    keepsakes.keep_best(validation)
    assert len(told) == 1
    assert "report/ is not complete" in told[0]
    assert "the training goes on" in told[0]


def test_far_too_many_detections_are_not_kept(
    tmp_path: Path, validation: Validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(effdet.keepsakes.keep, "MOST_DETECTIONS", 1)
    keepsakes = Keepsakes(tmp_path, told.append)
    keepsakes.hold(results(0.5, 0.6))
    keepsakes.keep_best(validation)
    assert "2 detections are more than 1" in told[0]
    assert not (tmp_path / "report" / "best.json").exists()


def test_other_processes_keep_nothing(validation: Validation) -> None:
    keepsakes = Keepsakes(None, pytest.fail)
    keepsakes.labels({"val": validation.dataset}, (64, 64))
    keepsakes.hold(results(0.5))
    keepsakes.keep_best(validation)
    assert len(list(keepsakes.first_batches([batch()], CONFIG, CLASS_MAP))) == 1
