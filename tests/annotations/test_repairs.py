# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.annotations import AnnotationError, fit_boxes, read_annotations, stream
from effdet.annotations.rows import NO_ID
from effdet.data import CocoDataset
from effdet.errors import DataError
from effdet.evaluation import GroundTruth
from tests.annotations.conftest import Content

SOUND = {"image_id": 12, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 1, "iscrowd": 0}


@pytest.fixture
def files(content: Content, tmp_path: Path) -> tuple[Path, Path]:
    for row in content["images"]:
        path = tmp_path / "images" / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((row["height"], row["width"]), np.uint8)).save(path)
    return tmp_path / "a.json", tmp_path / "images"


def test_boxes_are_fitted_to_their_images(content: Content) -> None:
    boxes = [[1, 2, 3, 4], [38, 2, 3, 4], [1, 2, 0, 4], [1, 2, 3, -4], [40, 2, 3, 4], [-5, 2, 4, 4]]
    content["annotations"] = [SOUND | {"id": k, "bbox": box} for k, box in enumerate(boxes)]
    fitted = fit_boxes(read_annotations(content))
    assert fitted.keep.tolist() == [True, True, False, False, False, False]
    assert fitted.boxes[:2].tolist() == [[1, 2, 4, 6], [38, 2, 40, 6]]
    found = {kind: np.flatnonzero(mask).tolist() for kind, mask in fitted.repaired.items()}
    assert found == {"box-without-area": [2, 3], "box-outside": [4, 5], "box-clipped": [1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bbox": [38, 2, 3, 4]},
            "bbox: expected a box within its image, found [38, 2, 3, 4] in ",
        ),
        ({"bbox": [1, 2, 0, 4]}, "bbox: expected a width and a height above 0, found [1, 2, 0, 4]"),
        ({"bbox": [40, 2, 3, 4]}, "bbox: expected a box that meets its image, found [40, 2, 3, 4]"),
        ({"area": None}, "area: expected an area, found nothing (id 5, image 12 'a.jpg')"),
        ({"id": None}, "id: expected an id, found nothing (image 12 'a.jpg')"),
        ({"iscrowd": None}, "iscrowd: expected 0 or 1, found nothing (id 5, image 12 'a.jpg')"),
        ({"iscrowd": False}, "iscrowd: expected 0 or 1, found false (id 5, image 12 'a.jpg')"),
        ({"id": 5.0}, "id: expected an integer of 64 bits, found 5.0 (id 5, image 12 'a.jpg')"),
        ({"image_id": 12.0}, "image_id: expected an integer of 64 bits, found 12.0 (id 5, image "),
    ],
)
def test_strict_reading_refuses_repairs(
    content: Content, files: tuple[Path, Path], change: dict[str, object], message: str
) -> None:
    content["annotations"] = [SOUND | {"id": 4}, SOUND | {"id": 5} | change]
    files[0].write_text(json.dumps(content))
    assert len(CocoDataset(*files).target(0).boxes) in (1, 2)
    with pytest.raises(AnnotationError) as caught:
        CocoDataset(*files, strict=True)
    assert str(caught.value).startswith(f"{files[0]}: annotations[1].{message}")
    assert str(caught.value).endswith("(without --strict-data these are repaired and counted)")


def test_strict_reading_takes_what_needs_no_repair_and_a_rounding_overhang(
    content: Content, files: tuple[Path, Path]
) -> None:
    content["annotations"] = [SOUND | {"id": 4, "bbox": [0, 0, 40.005, 30]}]
    files[0].write_text(json.dumps(content))
    assert CocoDataset(*files, strict=True).report.clipped == 0
    assert GroundTruth.load(files[0], strict=True).num_left_out == 0


def test_every_repair_is_counted(content: Content, files: tuple[Path, Path]) -> None:
    files[0].write_text(json.dumps(content))
    report = CocoDataset(*files).report
    assert (report.no_id, report.no_area, report.no_iscrowd) == (1, 2, 1)
    with pytest.raises(AnnotationError, match=r"^[^:]*: 4 faults \(2 x missing area, 1 x "):
        CocoDataset(*files, strict=True)


@pytest.mark.parametrize("window", [64, 1 << 20])
def test_values_of_another_type_are_read_as_what_they_mean_and_counted(
    content: Content, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """As pandas writes whole numbers, and as COCO Annotator and pylabel write iscrowd."""
    monkeypatch.setattr(stream, "WINDOW", window)
    changes: list[Content] = [
        {"id": 1.0, "image_id": 0.0, "category_id": 3.0, "iscrowd": 1.0},
        {"id": 2, "iscrowd": True},
        {"id": 3, "iscrowd": False},
        {"id": None, "iscrowd": None},
        {"id": None, "iscrowd": 0.0},
        {"id": 2**53 - 1.0},
        {"id": 6},
    ]
    content["annotations"] = [SOUND | change for change in changes]
    content["images"][0] |= {"id": 12.0, "width": 40.0}
    content["categories"][1]["id"] = 3.0
    files[0].write_text(json.dumps(content))
    table = read_annotations(files[0])
    assert table.ids.tolist() == [1, 2, 3, NO_ID, NO_ID, 2**53 - 1, 6]
    assert table.image_index.tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert table.category_index.tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert table.crowd.tolist() == [True, True, False, False, False, False, False]
    assert table.sizes.tolist() == [[30, 40], [48, 16]]
    assert table.mended.counts == {"whole-float": 9, "bool-iscrowd": 2}
    report = CocoDataset(table, files[1]).report
    assert (report.no_id, report.no_iscrowd) == (2, 1)
    assert (report.whole_float, report.bool_iscrowd) == (9, 2)
    text = "filled in: 2 id, 1 iscrowd; whole numbers with a point: 9; iscrowd of true or false: 2"
    assert str(report).endswith(text)
    assert GroundTruth.load(files[0]).num_mended == 11
    with pytest.raises(AnnotationError, match=r"14 faults \(9 x whole number with a point, 2 x "):
        GroundTruth.load(files[0], strict=True)


def test_there_must_be_a_box_to_train_on(content: Content, files: tuple[Path, Path]) -> None:
    content["annotations"] = [SOUND | {"bbox": [90, 2, 3, 4]}]
    files[0].write_text(json.dumps(content))
    with pytest.raises(DataError, match="annotations: expected at least one box to train on"):
        CocoDataset(*files).require_boxes()
    del content["annotations"]
    files[0].write_text(json.dumps(content))
    with pytest.raises(DataError, match="annotations: expected at least one box to train on"):
        CocoDataset(*files).require_boxes()
