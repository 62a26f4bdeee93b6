# SPDX-License-Identifier: Apache-2.0
"""A detector scored on a split, with images and boxes that are not as they should be."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from effdet import distributed
from effdet.data import SplitFiles, locate_split
from effdet.errors import DataError
from effdet.inference import Detector, scoring
from effdet.inference.scoring import score_split
from effdet.settings import PostprocessConfig
from tests.inference.conftest import CLASS_MAP, CONFIG, ColorModel, picture

BOX = (40, 30, 120, 90)


@pytest.fixture
def files(tmp_path: Path) -> SplitFiles:
    """Three images with one red box each."""
    (tmp_path / "val").mkdir()
    (tmp_path / "annotations").mkdir()
    x1, y1, x2, y2 = BOX
    boxes = [
        {"id": n, "image_id": n, "category_id": 4, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        | {"area": (x2 - x1) * (y2 - y1)}
        for n in (1, 2, 3)
    ]
    for n in (1, 2, 3):
        picture(("red", BOX), size=(200, 140)).save(tmp_path / "val" / f"{n}.png")
    images = [{"id": n, "file_name": f"{n}.png", "width": 200, "height": 140} for n in (1, 2, 3)]
    categories = [{"id": 4, "name": "red thing"}, {"id": 9, "name": "blue thing"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return locate_split(str(tmp_path), "val")


def score(detector: Detector, files: SplitFiles, **words: Any) -> tuple[Any, list[str]]:
    detector.postprocess = PostprocessConfig(nms="hard")
    told: list[str] = []
    return score_split(detector, files, workers=0, note=told.append, **words), told


def test_a_detector_that_finds_all_has_full_figures(detector: Detector, files: SplitFiles) -> None:
    found, told = score(detector, files)
    assert found.metrics.figures["AP50"] == pytest.approx(1.0)
    assert (found.metrics.images, found.metrics.bad_images) == (3, 0)
    assert len(found.results.scores) == 3
    (line,) = told
    assert line.startswith(f"{files.annotations}: 3 images")


def test_a_bad_image_is_named_counted_and_missed(detector: Detector, files: SplitFiles) -> None:
    (files.images / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2\.png"):
        score(detector, files)
    found, told = score(detector, files, max_bad_images=0.5)
    assert found.metrics.bad_images == 1
    assert 0.6 < found.metrics.figures["AP50"] < 0.7
    assert [line for line in told if line.startswith("warning: ") and "2.png" in line]


def test_where_no_image_can_be_read_nothing_is_scored(
    detector: Detector, files: SplitFiles
) -> None:
    for path in files.images.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="not one image could be read"):
        score(detector, files, max_bad_images=1.0)


def test_what_the_figures_do_not_tell_is_noted(detector: Detector, files: SplitFiles) -> None:
    content = json.loads(files.annotations.read_text())
    files.annotations.write_text(json.dumps(content | {"annotations": []}))
    _, told = score(detector, files)
    assert "there is no box to be found; all figures are empty" in told[-1]


def test_other_processes_say_nothing(
    detector: Detector, files: SplitFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimpleNamespace(is_main=lambda: False, num_workers=distributed.num_workers)
    monkeypatch.setattr(scoring, "distributed", other)
    assert score(detector, files)[1] == []


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_come_in_the_layout_of_the_weights(files: SplitFiles, channels_last: bool) -> None:
    layouts: list[bool] = []

    class Seen(ColorModel):
        def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            layouts.append(images.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    detector = Detector(Seen(CONFIG), CONFIG, CLASS_MAP, channels_last=channels_last)
    score(detector, files)
    detector.predict(Image.new("RGB", (50, 50)))
    assert layouts == [channels_last, channels_last]
