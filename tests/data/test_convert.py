# SPDX-License-Identifier: Apache-2.0
"""Data sets in other formats and back: what stays the same, and what is said to be lost."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdet import cli
from effdet.data import find_splits
from effdet.data.convert import WRITERS, _unique_names, convert_data
from effdet.errors import DataError, UsageError
from tests.data.formats.converted import boxes_of
from tests.data.formats.making import picture, text

YOLO_TOLERANCE = 1e-6
"""Pixels that a box may move on its way through YOLO's 12 digits."""

LOST = {
    "image ids": 3,
    "annotation ids": 4,
    "category ids": 2,
    "gaps between category ids": 2,
    "areas other than width x height": 1,
}
"""What neither VOC nor YOLO can hold of ``content``."""


def write_coco(folder: Path, content: dict[str, Any], split: str = "train") -> Path:
    for image in content["images"]:
        size = (image["width"], image["height"])
        picture(folder / split / image["file_name"], size)
    text(folder / "annotations" / f"instances_{split}.json", json.dumps(content))
    return folder


@pytest.fixture
def content() -> dict[str, Any]:
    """Ids with gaps, crowd, an area of a mask, fractions, a box that sticks out, an empty image."""
    rows = [
        (7, 30, 5, [0.1, 0.2, 12.3, 7.7], 50.5, 0),
        (3, 10, 2, [10, 20, 30, 5], 150, 0),
        (9, 10, 5, [0, 0, 40, 30], 1200, 1),
        (11, 10, 2, [-1, -2.5, 20, 20], 400, 0),
    ]
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    return {
        "images": [
            {"id": 30, "file_name": "b.png", "width": 41, "height": 37},
            {"id": 10, "file_name": "deep/a 1.png", "width": 40, "height": 30},
            {"id": 20, "file_name": "c.jpg", "width": 16, "height": 48},
        ],
        "annotations": [dict(zip(keys, row)) for row in rows],
        "categories": [{"id": 5, "name": "dog & <cat>"}, {"id": 2, "name": "ant"}],
    }


def test_voc_gives_back_every_box_exactly(tmp_path: Path, content: dict[str, Any]) -> None:
    source = write_coco(tmp_path / "coco", content)
    done = convert_data(source, tmp_path / "voc", "voc")
    assert +done.lost == Counter(LOST)
    back = convert_data(tmp_path / "voc", tmp_path / "back", "coco")
    assert not +back.lost
    before, after = boxes_of(source)[1], boxes_of(tmp_path / "back")[1]
    assert {name: sorted(rows) for name, rows in before.items()} == {
        name: sorted(rows) for name, rows in after.items()
    }
    again = convert_data(tmp_path / "back", tmp_path / "voc2", "voc")
    assert not +again.lost


def test_yolo_gives_back_every_box_that_is_no_crowd(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    source = write_coco(tmp_path / "coco", content)
    done = convert_data(source, tmp_path / "yolo", "yolo")
    cut = {"crowd regions, left out": 1, "boxes cut to their images": 1}
    assert +done.lost == Counter(LOST | cut)
    convert_data(tmp_path / "yolo", tmp_path / "back", "coco")
    table, after = boxes_of(tmp_path / "back")
    assert table.category_ids.tolist() == [0, 1]
    assert table.category_names == ("ant", "dog & <cat>")
    assert [row[0] for row in after["a 1"]] == ["ant", "ant"]
    np.testing.assert_allclose(after["a 1"][1][1:5], [0, 0, 19, 17.5], atol=YOLO_TOLERANCE)
    np.testing.assert_allclose(after["b"][0][1:5], [0.1, 0.2, 12.3, 7.7], atol=YOLO_TOLERANCE)
    assert after["c"] == []
    again = convert_data(tmp_path / "back", tmp_path / "yolo2", "yolo")
    assert not +again.lost


def test_coco_is_kept_as_it_is(tmp_path: Path, content: dict[str, Any]) -> None:
    source = write_coco(tmp_path / "coco", content)
    content["annotations"][0].pop("id")
    source = write_coco(tmp_path / "coco", content)
    done = convert_data(source, tmp_path / "out", "coco")
    assert not +done.lost
    written = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    content["annotations"][0]["id"] = 12
    content["images"][1]["file_name"] = "a 1.png"
    for key in content:
        assert written[key] == content[key]


def test_voc_counts_classes_that_no_box_has_and_names_twice(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": i, "name": name} for i, name in enumerate("aab", start=1)],
    }
    lost = convert_data(write_coco(tmp_path / "coco", content), tmp_path / "out", "voc").lost
    assert lost["classes without a box"] == 1
    assert lost["classes of the same name as another"] == 1


def test_two_classes_of_one_name_are_refused_by_yolo(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    content["categories"].append({"id": 9, "name": "ant"})
    with pytest.raises(DataError, match=r"2 classes have the name 'ant' \(ids 2, 9\); join them"):
        convert_data(write_coco(tmp_path / "coco", content), tmp_path / "out", "yolo")


def test_images_that_are_not_there_are_set_apart_too(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    source = write_coco(tmp_path / "coco", content)
    (source / "train" / "b.png").unlink()
    done = convert_data(source, tmp_path / "out", "coco", val_share=0.5, images="none")
    assert done.images == {"train": 1, "val": 2}


def everything_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_nothing_is_left_of_what_is_refused_while_it_is_written(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_coco(tmp_path / "coco", content)
    content["categories"][0]["name"] = "dog\x01"
    bad = write_coco(tmp_path / "bad", content)
    (tmp_path / "empty").mkdir()
    before = everything_in(tmp_path)
    for output in ("out", "out/deep/er"):
        with pytest.raises(DataError, match="cannot stand in XML"):
            convert_data(bad, tmp_path / output, "voc")
        assert everything_in(tmp_path) == before

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("effdet.data.convert.shutil.copyfile", stop)
    for output, to in (("out", "coco"), ("out", "voc"), ("empty", "yolo")):
        with pytest.raises(KeyboardInterrupt):
            convert_data(source, tmp_path / output, to)  # type: ignore[arg-type]
        assert everything_in(tmp_path) == before


PROGRAM = """
import os, shutil, sys
from effdet import errors
from effdet.cli import run_command
done = []
copy_file = shutil.copyfile
def copy(source, target):
    done.append(copy_file(source, target))
    if len(done) == 2:
        os.kill(os.getpid(), int(sys.argv[1]))
shutil.copyfile = copy
errors.run(lambda: run_command(sys.argv[2:]), "effdet")
"""


def convert_and_kill(number: int, source: Path, output: Path, to: str) -> subprocess.Popen[str]:
    words = ["convert-data", str(source), str(output), "--to", to]
    program = [sys.executable, "-c", PROGRAM, str(number), *words]
    return subprocess.Popen(
        program, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("to", sorted(WRITERS))
def test_what_a_killed_process_leaves_does_not_look_complete(
    tmp_path: Path, content: dict[str, Any], to: Any
) -> None:
    source = write_coco(tmp_path / "coco", content)
    died = convert_and_kill(signal.SIGKILL, source, tmp_path / "out", to)
    assert died.wait() == -9
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.*.part"))) == 1
    convert_data(source, tmp_path / "out", to)
    assert len(boxes_of(tmp_path / "out")[1]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco", "out"]


@pytest.mark.parametrize("output", ["out", "empty", "deep/er"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(
    tmp_path: Path, content: dict[str, Any], number: signal.Signals, output: str
) -> None:
    source = write_coco(tmp_path / "coco", content)
    (tmp_path / "empty").mkdir()
    before = everything_in(tmp_path)
    ended = convert_and_kill(number, source, tmp_path / output, "yolo")
    assert f"effdet: error: ended by {number.name}\n" in ended.communicate()[1]
    assert ended.returncode == 128 + number
    assert everything_in(tmp_path) == before


def test_folders_of_others_are_left(tmp_path: Path, content: dict[str, Any]) -> None:
    source = write_coco(tmp_path / "coco", content)
    mine = text(tmp_path / ".out.part" / "mine.txt", "mine")
    (tmp_path / "out").mkdir()
    convert_data(source, tmp_path / "out", "yolo")
    assert mine.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.part", "coco", "out"]
    assert (tmp_path / "out").stat().st_mode == source.stat().st_mode


def test_an_image_that_cannot_be_read_is_refused_by_yolo(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    source = write_coco(tmp_path / "coco", content)
    (source / "train" / "b.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.png"):
        convert_data(source, tmp_path / "out", "yolo")


def test_boxes_drawn_on_the_unturned_image_are_refused_by_yolo(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    source = write_coco(tmp_path / "coco", content)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (41, 37)).save(source / "train" / "b.png", exif=exif)
    expected = r"expected the size of the upright image, 37 x 41, found 41 x 37 .*; YOLO has no siz"
    with pytest.raises(DataError, match=expected):
        convert_data(source, tmp_path / "out", "yolo")
    convert_data(source, tmp_path / "out", "voc")


@pytest.mark.parametrize("how", ["copy", "none"])
def test_files_outside_are_refused(tmp_path: Path, content: dict[str, Any], how: Any) -> None:
    source = write_coco(tmp_path / "coco", content)
    content["images"][2]["file_name"] = "../annotations/instances_train.json"
    text(source / "annotations" / "instances_train.json", json.dumps(content))
    with pytest.raises(DataError, match=r"images\[2\].file_name: .* a way out of the folder"):
        convert_data(source, tmp_path / "out", "voc", images=how)
    assert not (tmp_path / "out").exists()


def test_a_class_that_xml_cannot_name_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    content["categories"][0]["name"] = "dog\x01"
    with pytest.raises(DataError, match=r"the class name 'dog\\x01' cannot stand in XML"):
        convert_data(write_coco(tmp_path / "coco", content), tmp_path / "out", "voc")


@pytest.mark.parametrize("to", ["voc", "yolo"])
def test_formats_of_three_splits_take_another_name_for_train_only(
    tmp_path: Path, content: dict[str, Any], to: Any
) -> None:
    source = write_coco(tmp_path / "coco", content, "default")
    convert_data(source, tmp_path / "out", to)
    assert set(find_splits(tmp_path / "out")) == {"train"}
    boxes_of(tmp_path / "out")
    write_coco(source, content, "more")
    with pytest.raises(UsageError, match=r"splits default, more: .* has train, val, test alone;"):
        convert_data(source, tmp_path / "two", to)
    assert set(convert_data(source, tmp_path / "two", "coco").images) == {"default", "more"}


def test_splits_of_other_categories_are_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    source = write_coco(tmp_path / "coco", content)
    content["categories"][1]["name"] = "bee"
    write_coco(source, content, "val")
    with pytest.raises(DataError, match=r"found others: 2 \(ant\), 2 \(bee\)$"):
        convert_data(source, tmp_path / "out", "yolo")


def test_the_command_says_what_was_lost_and_what_is_next(
    tmp_path: Path, content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_coco(tmp_path / "coco", content)
    words = ["convert-data", str(source), str(tmp_path / "out"), "--to", "yolo"]
    cli.run_command(words)
    said = capsys.readouterr().out
    assert "COCO JSON -> YOLO txt\ntrain     3 images, 4 boxes\nYOLO txt cannot hold:\n" in said
    assert "        1 crowd regions, left out\n" in said
    assert "gaps between category ids" in said
    assert said.endswith(f"next: effdet check {tmp_path / 'out'}\n")
    with pytest.raises(UsageError, match=r"^OUTPUT .* is not empty; give another folder"):
        cli.run_command(words)
    back = ["convert-data", str(tmp_path / "out"), str(tmp_path / "back"), "--to", "coco"]
    cli.run_command([*back, "--images", "none"])
    said = capsys.readouterr().out
    assert "all of ids, boxes, areas, crowd regions and classes was kept" in said
    assert "without images: " in said


@pytest.mark.parametrize("how", ["copy", "none"])
def test_images_that_yolo_would_not_find_are_refused(
    tmp_path: Path, content: dict[str, Any], how: Any
) -> None:
    source = write_coco(tmp_path / "coco", content)
    (source / "train" / "c.jpg").rename(source / "train" / "noext")
    content["images"][2]["file_name"] = "noext"
    text(source / "annotations" / "instances_train.json", json.dumps(content))
    with pytest.raises(DataError, match=r"1 image without a usual ending, .*: noext; give .*\.png"):
        convert_data(source, tmp_path / "out", "yolo", images=how)
    assert set(convert_data(source, tmp_path / "out", "coco").images) == {"train"}


@pytest.mark.parametrize("name", [" dog ", "do\ng"])
def test_a_class_that_yolo_would_not_read_again_is_refused(
    tmp_path: Path, content: dict[str, Any], name: str
) -> None:
    content["categories"][0]["name"] = name
    with pytest.raises(DataError, match=r"cannot stand in data\.yaml"):
        convert_data(write_coco(tmp_path / "coco", content), tmp_path / "out", "yolo")
    assert not (tmp_path / "out").exists()


def test_an_empty_output_is_refused() -> None:
    with pytest.raises(UsageError, match="OUTPUT is empty; name a folder"):
        cli.run_command(["convert-data", "a", "", "--to", "coco"])


@pytest.mark.parametrize("words", [["--val-share", "1"], ["--seed", "-1"], ["--to", "csv"]])
def test_values_that_cannot_be_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match=f"^(argument )?{words[0]}"):
        cli.run_command(["convert-data", "a", "b", "--to", "coco", *words])


def rounded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (row[0], *(round(side) for side in row[1:5]))


@pytest.mark.parametrize("name", ["bccd", "coco_mini"])
@pytest.mark.parametrize("to", ["voc", "yolo"])
def test_real_sets_come_back(data_folder: Path, tmp_path: Path, name: str, to: Any) -> None:
    if not (data_folder / name).is_dir():
        pytest.skip(f"no {name}")
    source = data_folder / name
    convert_data(source, tmp_path / "there", to, images="copy")
    convert_data(tmp_path / "there", tmp_path / "back", "coco", images="link")
    for split in find_splits(source):
        before, after = boxes_of(source, split)[1], boxes_of(tmp_path / "back", split)[1]
        assert set(before) == set(after)
        for stem, rows in before.items():
            if to == "voc":
                assert sorted(rows) == sorted(after[stem])
                continue
            kept = sorted((row for row in rows if not row[5]), key=rounded)
            found = sorted(after[stem], key=rounded)
            assert [row[0] for row in kept] == [row[0] for row in found]
            for row, other in zip(kept, found):
                np.testing.assert_allclose(row[1:5], other[1:5], atol=0.011)  # cut to the image


def test_each_image_gets_a_stem_of_its_own_and_keeps_its_ending() -> None:
    taken: set[str] = set()
    assert _unique_names(["a/1.jpg", "b/1.PNG", "c/b_1.gif", ".jpg"], taken) == [
        "1.jpg", "b_1.PNG", "c_b_1.gif", ".jpg"
    ]  # fmt: skip
    assert _unique_names(["1.jpg", ".jpg"], taken) == ["1_2.jpg", ".jpg_2"]
