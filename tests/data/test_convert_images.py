# SPDX-License-Identifier: Apache-2.0
"""The images of converted data sets: brought along, named, divided among the splits."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from effdet.data import find_splits, read_split
from effdet.data.convert import WRITERS, convert_data
from effdet.errors import UsageError
from tests.data.formats.converted import boxes_of
from tests.data.formats.making import csv_folder, picture, text, voc_folder, voc_object


@pytest.mark.parametrize("to", sorted(WRITERS))
@pytest.mark.parametrize("how", ["copy", "link", "none"])
def test_images_are_copied_linked_or_left(tmp_path: Path, to: Any, how: Any) -> None:
    source = csv_folder(tmp_path / "csv", "a.jpg,1,2,3,4,dog\nb.jpg,,,,,\n")
    done = convert_data(source, tmp_path / "out", to, images=how)
    assert (done.source, done.images, done.boxes) == ("csv", {"train": 2}, {"train": 1})
    found = sorted((tmp_path / "out").rglob("*.jpg"))
    assert [path.name for path in found] == ([] if how == "none" else ["a.jpg", "b.jpg"])
    for path in found:
        original = source / "images" / path.name
        assert path.read_bytes() == original.read_bytes()
        assert path.samefile(original) == (how == "link")
    if how != "none":
        boxes = boxes_of(tmp_path / "out")[1]
        assert boxes["a"] == [("dog", *(pytest.approx(side) for side in (1, 2, 2, 2)), False)]
        assert boxes["b"] == []


@pytest.mark.parametrize("to", sorted(WRITERS))
def test_images_of_the_same_name_get_names_of_their_own(tmp_path: Path, to: Any) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / "in" / split / "1.jpg", (10, 10) if split == "train" else (20, 20))
        picture(tmp_path / "in" / split / "2.png")
        text(tmp_path / "in" / split / "_annotations.csv", "1.jpg,1,2,3,4,dog\n2.png,1,2,3,4,cat\n")
    picture(tmp_path / "in" / "train" / "deep" / "1.png")
    text(
        tmp_path / "in" / "train" / "_annotations.csv",
        "1.jpg,1,2,3,4,dog\ndeep/1.png,5,6,7,8,cat\n2.png,1,2,3,4,cat\n",
    )
    convert_data(tmp_path / "in", tmp_path / "out", to)
    for split, count in (("train", 3), ("val", 2)):
        table, boxes = boxes_of(tmp_path / "out", split)
        assert len(boxes) == count
        assert len(table.boxes) == count
    assert read_split(find_splits(tmp_path / "out")["val"]).sizes.tolist()[0] == [20, 20]


def test_some_training_images_become_val(tmp_path: Path) -> None:
    objects = {f"{k}": voc_object("x" if k % 2 else "y", (k + 1, 1, 60, 9)) for k in range(10)}
    source = voc_folder(tmp_path / "voc", objects)
    for k in range(10):
        Image.new("RGB", (100, 50), (k, 9, 9)).save(source / "train" / f"{k}.jpg")
    done = convert_data(source, tmp_path / "a", "coco", val_share=0.3)
    assert done.images == {"train": 7, "val": 3}
    train, val = (boxes_of(tmp_path / "a", split)[1] for split in ("train", "val"))
    assert not set(train) & set(val)
    assert train | val == boxes_of(source)[1]
    convert_data(source, tmp_path / "b", "coco", val_share=0.3)
    assert boxes_of(tmp_path / "b", "val")[1] == val
    convert_data(source, tmp_path / "c", "coco", val_share=0.3, seed=1)
    assert boxes_of(tmp_path / "c", "val")[1] != val
    with pytest.raises(UsageError, match=r"without any .*; give a share nearer to 0\.5"):
        convert_data(source, tmp_path / "d", "coco", val_share=0.01)
    with pytest.raises(UsageError, match="the data has train, val"):
        convert_data(tmp_path / "a", tmp_path / "d", "coco", val_share=0.5)
    assert not (tmp_path / "d").exists()


def test_copies_of_an_image_stay_in_one_split(tmp_path: Path) -> None:
    objects = {f"{k}": voc_object("x", (k + 1, 1, 60, 9)) for k in range(12)}
    source = voc_folder(tmp_path / "voc", objects)
    for k in range(12):  # of each image three
        Image.new("RGB", (100, 50), (60 * (k % 4), 9, 9)).save(source / "train" / f"{k}.jpg")
    for seed in range(5):
        output = tmp_path / f"{seed}"
        done = convert_data(source, output, "yolo", val_share=0.5, seed=seed)
        assert done.images == {"train": 6, "val": 6}
        train, val = (
            {path.read_bytes() for path in (output / "images" / split).iterdir()}
            for split in ("train", "val")
        )
        assert not train & val
    done = convert_data(source, tmp_path / "few", "yolo", val_share=0.4)  # 4.8, of which 3
    assert done.images == {"train": 9, "val": 3}
