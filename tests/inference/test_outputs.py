# SPDX-License-Identifier: Apache-2.0
"""What prediction writes besides pictures and predictions.json of images."""

import csv
import json
import weakref
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

from effdet.errors import DataError, UsageError
from effdet.files.yaml_file import read_yaml
from effdet.inference import Detector, ReadSettings, expand_sources, predict_to_folder, video
from effdet.inference.video_file import VideoFile
from effdet.structures import ClassMap

from .conftest import picture
from .videos import NUM_FRAMES, RATE, SIZE, frames_of, make_video, red_box, times_of

BOX = (20, 30, 70, 55)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "photos" / name for name in ("a.png", "b.bmp", "empty.png")]
    files[0].parent.mkdir()
    picture(("red", (10, 10, 50, 60)), ("blue", (60, 10, 85, 65)), size=(90, 70)).save(files[0])
    picture(("blue", BOX), size=(90, 70)).save(files[1])
    picture(size=(90, 70)).save(files[2])
    return files


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_video(tmp_path / "clip.mp4")


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_wanted_is_written(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    for save, names in {
        "json": {"predictions.json"},
        "csv": {"detections.csv"},
        "coco": {"coco_results.json", "coco_images.json"},
        "yolo": {"data.yaml", "labels/a.txt", "labels/b.txt", "labels/empty.txt"},
        "crops": {f"crops/{n}.jpg" for n in ("red thing/a_1", "blue thing/a_2", "blue thing/b_1")},
        "pictures": {"a.png", "b.png", "empty.png"},
    }.items():
        predict_to_folder(detector, photos, tmp_path / save, save=[save])
        assert names_in(tmp_path / save) == names


def test_without_pictures_the_record_names_none(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    report = predict_to_folder(detector, photos, tmp_path / "out", save=["json"])
    content = json.loads(report.predictions.read_text())
    assert all("picture" not in row for row in content["images"])
    assert content["settings"]["tta"] is False
    assert content["settings"]["tile"] == 0


def test_coco_results_belong_to_the_numbered_images(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    predict_to_folder(detector, photos, tmp_path / "out", save=["coco"])
    truth = COCO(str(tmp_path / "out" / "coco_images.json"))
    results = truth.loadRes(str(tmp_path / "out" / "coco_results.json"))
    assert [image["file_name"] for image in truth.loadImgs([1, 2, 3])] == [str(p) for p in photos]
    assert [c["name"] for c in truth.loadCats([4, 9])] == ["red thing", "blue thing"]
    (found,) = results.loadAnns(results.getAnnIds(imgIds=[2]))
    assert found["category_id"] == 9
    assert found["bbox"] == pytest.approx([20, 30, 50, 25], abs=2)
    assert found["score"] == pytest.approx(0.8808, abs=1e-4)
    assert results.getAnnIds(imgIds=[3]) == []


def annotation_file(folder: Path, names: Sequence[str]) -> Path:
    images = [
        {"id": 70 + i, "file_name": name, "width": 90, "height": 70} for i, name in enumerate(names)
    ]
    categories = [{"id": 4, "name": "red thing"}, {"id": 9, "name": "blue thing"}]
    file = folder / "truth.json"
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return file


def test_ids_are_those_of_the_annotation_file(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    file = annotation_file(tmp_path, ["other/b.bmp", "photos/b.bmp", "empty.png", "a.png"])
    predict_to_folder(detector, photos, tmp_path / "out", save=["coco"], annotations=file)
    assert names_in(tmp_path / "out") == {"coco_results.json"}
    results = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert [row["image_id"] for row in results] == [73, 73, 71]


def test_an_image_that_the_annotation_file_does_not_know_is_named_first(
    detector: Detector, photos: list[Path], clip: Path, tmp_path: Path
) -> None:
    for names, text in (
        (["a.png", "b.bmp"], r"truth\.json: there is no image for the file .*empty\.png"),
        (["a.png", "b.bmp", "empty.png", "photos/b.bmp"], r"there is 2 images .*b\.bmp"),
    ):
        file = annotation_file(tmp_path, names)
        with pytest.raises(DataError, match=text):
            predict_to_folder(detector, photos, tmp_path / "out", save=["coco"], annotations=file)
    with pytest.raises(UsageError, match="--annotations has ids of image files only"):
        predict_to_folder(
            detector, expand_sources([clip]), tmp_path / "out", save=["coco"], annotations=file
        )
    assert not (tmp_path / "out").exists()
    assert detector.model.batches == []


def test_a_table_runs_nothing(detector: Detector, photos: list[Path], tmp_path: Path) -> None:
    detector.class_map = ClassMap(("=cmd()", None, "@sum,\n"), (4, None, 9))
    predict_to_folder(detector, photos, tmp_path / "out", save=["csv"])
    with (tmp_path / "out" / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["'=cmd()", "'@sum,\n", "'@sum,\n"]
    assert [row["file"] for row in rows] == [str(photos[i]) for i in (0, 0, 1)]
    assert [row["frame"] for row in rows] == [""] * 3
    box = [float(rows[2][key]) for key in ("x1", "y1", "x2", "y2")]
    assert box == pytest.approx(BOX, abs=2)
    assert (rows[2]["category_id"], rows[2]["score"]) == ("9", "0.8808")


@pytest.mark.parametrize("with_scores", [False, True])
def test_yolo_labels_are_shares_of_the_image(
    detector: Detector, photos: list[Path], tmp_path: Path, with_scores: bool
) -> None:
    output = tmp_path / "out"
    predict_to_folder(detector, photos, output, save=["yolo"], yolo_scores=with_scores)
    label, *values = (output / "labels" / "b.txt").read_text().split()
    assert label == "1"  # the slot without a class is not counted
    expected = [45 / 90, 42.5 / 70, 50 / 90, 25 / 70, *([0.8808] if with_scores else [])]
    assert [float(value) for value in values] == pytest.approx(expected, abs=0.03)
    assert len((output / "labels" / "a.txt").read_text().splitlines()) == 2
    assert (output / "labels" / "empty.txt").read_text() == ""
    assert read_yaml(output / "data.yaml")["names"].value == ["red thing", "blue thing"]


def test_two_classes_of_one_name_are_refused_by_yolo(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    detector.class_map = ClassMap(("con", None, "con"), (4, None, 9))
    with pytest.raises(DataError, match="two classes of the model have the name 'con'"):
        predict_to_folder(detector, photos, tmp_path / "out", save=["yolo"])


def test_crops_show_the_detections(detector: Detector, photos: list[Path], tmp_path: Path) -> None:
    detector.class_map = ClassMap(("../up", None, "con"), (4, None, 9))
    predict_to_folder(detector, photos, tmp_path / "out", save=["crops"])
    names = names_in(tmp_path / "out")
    assert names == {"crops/_.._up/a_1.jpg", "crops/_con/a_2.jpg", "crops/_con/b_1.jpg"}
    with Image.open(tmp_path / "out" / "crops" / "_con" / "b_1.jpg") as crop:
        assert crop.size == pytest.approx((50, 25), abs=2)
        assert np.array(crop)[8:16, 15:35].mean((0, 1)) == pytest.approx([0, 0, 255], abs=8)


def test_a_video_becomes_a_video_with_boxes_and_a_line_a_frame(
    detector: Detector, clip: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    report = predict_to_folder(detector, expand_sources([clip]), output, batch_size=3)
    assert names_in(output) == {"clip.mp4", "clip.jsonl", "predictions.json"}
    content = json.loads(report.predictions.read_text())
    assert content["images"] == []
    assert content["videos"] == [
        {
            "file": str(clip), "predictions": "clip.jsonl", "video": "clip.mp4",
            "num_frames": NUM_FRAMES, "num_detections": NUM_FRAMES,
        }
    ]  # fmt: skip
    rows = [json.loads(line) for line in (output / "clip.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(NUM_FRAMES))
    assert [row["time"] for row in rows] == [n / RATE for n in range(NUM_FRAMES)]
    for row in rows:
        assert (row["width"], row["height"]) == SIZE
        (found,) = row["detections"]
        assert found["box"] == pytest.approx(red_box(row["frame"]), abs=3)
    drawn, original = frames_of(output / "clip.mp4"), frames_of(clip)
    assert len(drawn) == NUM_FRAMES
    assert all(image.shape == original[0].shape for image in drawn)
    assert min(np.abs(a.astype(int) - b).max() for a, b in zip(drawn, original)) > 100
    assert (report.num_images, report.num_detections) == (NUM_FRAMES, NUM_FRAMES)


def test_some_frames_of_a_video_keep_their_times(
    detector: Detector, clip: Path, tmp_path: Path
) -> None:
    read = ReadSettings(every=4, max_frames=3)
    predict_to_folder(detector, expand_sources([clip]), tmp_path / "out", read=read)
    assert times_of(tmp_path / "out" / "clip.mp4") == pytest.approx([0, 0.4, 0.8], abs=1e-3)


def test_frames_have_rows_and_labels_of_their_own(
    detector: Detector, clip: Path, photos: list[Path], tmp_path: Path
) -> None:
    other = make_video(tmp_path / "photos" / "clip.mov", num_frames=2)
    output = tmp_path / "out"
    words = [clip, photos[1], other]
    save = ("pictures", "json", "coco", "csv", "yolo", "crops")
    read = ReadSettings(every=10, workers=0)
    predict_to_folder(detector, expand_sources(words), output, save=save, read=read, batch_size=8)
    assert names_in(output) == {
        "predictions.json", "detections.csv", "coco_images.json", "coco_results.json", "data.yaml",
        "clip.mp4", "clip_2.mp4", "b.png", "clip.jsonl", "clip_2.jsonl",
        "labels/clip/000000.txt", "labels/clip/000010.txt", "labels/clip_2/000000.txt",
        "labels/b.txt", "crops/blue thing/b_1.jpg", "crops/red thing/clip/000000_1.jpg",
        "crops/red thing/clip/000010_1.jpg", "crops/red thing/clip_2/000000_1.jpg",
    }  # fmt: skip
    images = json.loads((output / "coco_images.json").read_text())["images"]
    assert [image["id"] for image in images] == [1, 2, 3, 4]
    assert [image.get("frame") for image in images] == [0, 10, None, 0]
    with (output / "detections.csv").open(newline="") as file:
        rows = [(row["frame"], row["time"]) for row in csv.DictReader(file)]
    assert rows == [("0", "0.0"), ("10", "1.0"), ("", ""), ("0", "0.0")]


def test_of_a_video_that_ends_early_all_before_is_kept(
    detector: Detector, photos: list[Path], tmp_path: Path
) -> None:
    cut = make_video(tmp_path / "cut.mkv", noise=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (tmp_path / "broken.mp4").write_text("no video")
    sources = expand_sources([cut, tmp_path / "broken.mp4", photos[0]])
    report = predict_to_folder(detector, sources, tmp_path / "out")
    content = json.loads(report.predictions.read_text())
    (row,) = content["videos"]
    assert "ends early" in row["error"]
    assert 5 < row["num_frames"] < NUM_FRAMES
    assert len(frames_of(tmp_path / "out" / "cut.mp4")) == row["num_frames"]
    assert [row["file"] for row in content["failed"]] == [str(tmp_path / "broken.mp4")]
    assert len(content["images"]) == 1
    with pytest.raises(DataError, match=r"cut\.mkv: the video ends early") as caught:
        report.check()
    assert "; 1 of 3 sources could not be read: " in str(caught.value)
    assert "broken.mp4" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_a_video_that_is_none_nothing_is_left_behind(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"1 of 1 video could not be read: .*broken\.mp4"):
        predict_to_folder(detector, expand_sources([tmp_path / "broken.mp4"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_leaves_whole_files(
    detector: Detector, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, output = detector.model.forward, tmp_path / "out"

    def interrupted(images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        if len(detector.model.batches) == 3:
            raise KeyboardInterrupt
        return find(images)

    monkeypatch.setattr(detector.model, "forward", interrupted)
    save = ("pictures", "json", "coco", "csv")
    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(detector, expand_sources([clip]), output, batch_size=2, save=save)
    assert len(frames_of(output / "clip.mp4")) == 6
    assert len((output / "clip.jsonl").read_text().splitlines()) == 6
    assert json.loads((output / "predictions.json").read_text())["videos"][0]["num_frames"] == 6
    assert len(json.loads((output / "coco_results.json").read_text())) == 6
    assert len((output / "detections.csv").read_text().splitlines()) == 7


def test_sizes_that_the_codec_does_not_take_are_filled_up(tmp_path: Path) -> None:
    file = VideoFile(tmp_path / "odd.mp4", (33, 21), Fraction(RATE))
    for number in range(3):
        file.add(Image.new("RGB", (33, 21), "red"), number / RATE)
    file.add(Image.new("RGB", (80, 60), "red"), 0.3)  # a camera that changes its mind
    file.close()
    frames = frames_of(tmp_path / "odd.mp4")
    assert [frame.shape for frame in frames] == [(22, 34, 3)] * 4
    assert frames[0][10, 10] == pytest.approx([255, 0, 0], abs=12)


def test_a_long_video_takes_the_memory_of_a_few_frames(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most, pixels = 0, video._pixels

    def counted(frame: object) -> Tensor:
        image = pixels(frame)
        alive.add(image)
        return image

    monkeypatch.setattr(video, "_pixels", counted)
    clip = make_video(tmp_path / "long.mp4", num_frames=120)
    count = 0
    for _ in detector.stream(clip, batch_size=2):
        most, count = max(most, len(alive)), count + 1
    assert count == 120
    assert 2 < most <= 12
