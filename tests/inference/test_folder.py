# SPDX-License-Identifier: Apache-2.0
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.errors import DataError, UsageError
from effdet.inference import Detector, ImageSource, ReadSettings, predict_to_folder
from effdet.inference.naming import OutputNames

from .conftest import CLASS_MAP, picture


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = [tmp_path / name for name in ("one/a.png", "two/a.png", "two/b.bmp")]
    boxes = [("red", (10, 10, 50, 60)), ("blue", (20, 30, 70, 55)), ("red", (5, 5, 30, 25))]
    for file, box in zip(files, boxes, strict=True):
        file.parent.mkdir(exist_ok=True)
        picture(box, size=(90, 70)).save(file)
    return files


def test_each_image_has_a_picture_and_a_row(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    report = predict_to_folder(detector, photos, output, batch_size=2)
    content = json.loads((output / "predictions.json").read_text())
    rows = content["images"]
    assert [row["file"] for row in rows] == [str(path) for path in photos]
    assert [row["picture"] for row in rows] == ["a.png", "a_2.png", "b.png"]
    assert {path.name for path in output.iterdir()} == {
        "a.png", "a_2.png", "b.png", "predictions.json",
    }  # fmt: skip
    assert content["class_map"] == CLASS_MAP.to_dict()
    assert content["settings"]["nms"] == "hard"
    assert (rows[1]["width"], rows[1]["height"]) == (90, 70)
    (found,) = rows[1]["detections"]
    assert (found["name"], found["category_id"]) == ("blue thing", 9)
    assert found["score"] == pytest.approx(0.8808, abs=1e-4)
    assert found["box"] == pytest.approx([20, 30, 70, 55], abs=2)
    assert (report.num_images, report.num_detections, report.failed) == (3, 3, {})
    report.check()
    with Image.open(output / "b.png") as drawn, Image.open(photos[2]) as original:
        assert (np.array(drawn) != np.array(original)).any()


def test_a_bad_image_does_not_stop_the_others_and_is_named(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    photos[1].write_bytes(b"not an image")
    report = predict_to_folder(detector, photos, tmp_path / "out", batch_size=1)
    content = json.loads(report.predictions.read_text())
    assert [row["file"] for row in content["images"]] == [str(photos[0]), str(photos[2])]
    assert [row["file"] for row in content["failed"]] == [str(photos[1])]
    with pytest.raises(DataError, match=r"1 of 3 images .*two/a\.png"):
        report.check()


def test_where_no_image_can_be_read_nothing_is_left_behind(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    for photo in photos:
        photo.write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of 3 images could not be read: .*a\.png: the file is"):
        predict_to_folder(detector, photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError):
        predict_to_folder(detector, photos, tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_further_frames_are_noted(detector: Detector, photos: list[Path], tmp_path: Path) -> None:
    still = Image.new("RGB", (90, 70))
    still.save(photos[1], "GIF", save_all=True, append_images=[Image.new("RGB", (90, 70), "red")])
    report = predict_to_folder(detector, photos, tmp_path / "out")
    text = f"{photos[1]}: the first image of several in this GIF was taken"
    rows = json.loads(report.predictions.read_text())["images"]
    assert [row.get("note") for row in rows] == [None, text, None]
    assert report.notes == {str(photos[1]): text}


def test_max_pixels_is_about_each_image(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    Image.new("RGB", (91, 70)).save(photos[1])
    read = ReadSettings(max_pixels=90 * 70)
    report = predict_to_folder(detector, photos, tmp_path / "out", read=read)
    assert list(report.failed) == [str(photos[1])]
    assert "91 x 70 pixels, more than --max-pixels 6300" in report.failed[str(photos[1])]


def test_names_of_any_bytes_and_length_have_pictures_and_rows(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    files = [folder / ("é" * 125 + ".webp"), folder / ("x" * 251 + ".png")]
    files += [tmp_path / ("x" * 251 + ".png"), folder / os.fsdecode(b"a\xffb.png")]
    for file in files:
        Image.new("RGB", (9, 9)).save(file)
    report = predict_to_folder(detector, files, tmp_path / "out")
    assert report.num_images == 4
    rows = json.loads(report.predictions.read_text(encoding="utf-8"))["images"]
    assert [row["file"] for row in rows] == [str(file) for file in files]
    assert all((tmp_path / "out" / row["picture"]).is_file() for row in rows)
    assert len({row["picture"] for row in rows}) == 4


def test_class_filter_and_settings_reach_the_detector(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    report = predict_to_folder(
        detector, photos, tmp_path / "out", classes=["red thing"], score_threshold=0.5
    )
    content = json.loads(report.predictions.read_text())
    assert [len(row["detections"]) for row in content["images"]] == [1, 0, 1]
    assert content["settings"]["classes"] == ["red thing"]
    assert content["settings"]["score_threshold"] == 0.5


def test_a_folder_that_holds_something_is_never_written_to(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="one exists and is not empty; name a new one"):
        predict_to_folder(detector, photos, tmp_path / "one")
    with pytest.raises(UsageError, match=r"a\.png exists and is not a folder"):
        predict_to_folder(detector, photos, photos[0])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["a.png"]
    (tmp_path / "empty").mkdir()
    assert predict_to_folder(detector, photos, tmp_path / "empty").num_images == 3


def test_a_mistake_in_the_settings_leaves_no_folder(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    for mistake in ({"classes": ["green thing"]}, {"score_threshold": 2.0}, {"batch_size": 0}):
        with pytest.raises(UsageError):
            predict_to_folder(detector, photos, tmp_path / "out", **mistake)
    assert not (tmp_path / "out").exists()


def test_picture_names_never_collide() -> None:
    paths = ["x/a.jpg", "y/a.jpg", "y/A.JPG", "x/a.webp", "x/a.png", "x/a_2.jpg"]
    given = OutputNames()
    names = [given.picture(ImageSource(Path(path))) for path in paths]
    assert names == [given.picture(ImageSource(Path(path))) for path in paths]
    assert names == ["a.jpg", "a_2.jpg", "A_3.JPG", "a.png", "a_2.png", "a_2_2.jpg"]
