# SPDX-License-Identifier: Apache-2.0
"""Where the files of data sets are found, and what is said where they are not."""

import os
from pathlib import Path

import pytest

from effdet.data import find_splits, locate_split
from effdet.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "annotations").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("instances_train2017.json", "train2017", "train"),
        ("instances_train2017.json", "train2017", "train2017"),
        ("instances_train2017.json", "train", "train"),
        ("instances_val.json", "val", "val"),
        ("instances_val.json", "images", "val"),
    ],
)
def test_standard_layouts_are_found(folder: Path, file: str, images: str, split: str) -> None:
    (folder / "annotations" / file).write_text("{}")
    (folder / images).mkdir()
    found = locate_split(folder, split)
    assert (found.annotations, found.images) == (folder / "annotations" / file, folder / images)
    assert found.format == "coco"


def test_the_exact_name_wins_and_else_two_are_too_many(folder: Path) -> None:
    for name in ("train2014", "train2017"):
        (folder / "annotations" / f"instances_{name}.json").write_text("{}")
        (folder / name).mkdir()
    assert locate_split(folder, "train2014").images == folder / "train2014"
    both = r"several files fit \(instances_train2014.json, instances_train2017.json\)"
    with pytest.raises(DataError, match=both):
        locate_split(folder, "train")


def test_explicit_paths_win(folder: Path) -> None:
    (folder / "mine.json").write_text("{}")
    (folder / "pictures").mkdir()
    paths = (folder / "mine.json", folder / "pictures")
    for found in (
        locate_split(None, "train", *paths),
        locate_split(folder, "train", *map(os.fspath, paths)),
    ):
        assert (found.annotations, found.images) == paths


def test_what_is_missing_is_named_with_what_is_there(folder: Path) -> None:
    with pytest.raises(DataError, match=r"\(looked for COCO JSON.*annotations/$"):
        locate_split(folder, "val")
    (folder / "annotations" / "instances_val.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"no image folder \(val/, images/\); the folder holds annotations/$"
    ):
        locate_split(folder, "val")
    (folder / "val").mkdir()
    with pytest.raises(DataError, match=r"no such .*; the folder holds instances_val.json$"):
        locate_split(folder, "train")


def test_missing_folders_and_files_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such data folder"):
        locate_split(folder / "nowhere", "train")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no annotations .* holds nothing$"):
        locate_split(folder / "empty", "train")
    with pytest.raises(DataError, match=r"x.json: no such annotation file"):
        locate_split(folder, "train", annotations=folder / "x.json")
    (folder / "x.json").write_text("{}")
    with pytest.raises(DataError, match=r"x: no such image folder"):
        locate_split(folder, "train", annotations=folder / "x.json", images=folder / "x")
    with pytest.raises(DataError, match="a data folder is needed, or both"):
        locate_split(None, "train", annotations=folder / "x.json")


def test_all_splits_of_a_coco_folder_have_our_names(folder: Path) -> None:
    for name in ("train2017", "valid", "mini"):
        (folder / "annotations" / f"instances_{name}.json").write_text("{}")
    (folder / "images").mkdir()
    found = find_splits(folder)
    assert {name: files.annotations.name for name, files in found.items()} == {
        "mini": "instances_mini.json",
        "train": "instances_train2017.json",
        "val": "instances_valid.json",
    }
    assert all(files.name == name for name, files in found.items())


def test_two_files_of_one_split_keep_their_own_names(folder: Path) -> None:
    for name in ("train2014", "train2017"):
        (folder / "annotations" / f"instances_{name}.json").write_text("{}")
        (folder / name).mkdir()
    assert list(find_splits(folder)) == ["train2014", "train2017"]


@pytest.mark.parametrize("word", ["val", "valid"])
def test_coco_files_beside_their_images_are_found(tmp_path: Path, word: str) -> None:
    for name in ("train", word, "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_annotations.coco.json").write_text("{}")
    found = find_splits(tmp_path)
    assert list(found) == ["train", "val", "test"]
    assert found["val"].images == tmp_path / word
    assert locate_split(tmp_path, "val") == locate_split(tmp_path, "valid") == found["val"]
    with pytest.raises(DataError, match=r"no split 'mine'; found train/_annotations.coco.json,"):
        locate_split(tmp_path, "mine")


def test_two_formats_in_a_folder_are_one_error_that_names_both(folder: Path) -> None:
    (folder / "annotations" / "instances_train.json").write_text("{}")
    (folder / "data.yaml").write_text("train: images\nnames: [cat]\n")
    both = r"found COCO JSON \(annotations/instances_train.json\) and YOLO txt \(data.yaml\); move"
    for look in (lambda: find_splits(folder), lambda: locate_split(folder, "train")):
        with pytest.raises(DataError, match=both):
            look()


def test_other_files_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,2\n")
    (tmp_path / "config.yaml").write_text("data: shapes\n")
    (tmp_path / "notes.xml").write_text("<notes/>")
    with pytest.raises(DataError, match=r"no annotations found .* the folder holds config.yaml, m"):
        find_splits(tmp_path)


def test_a_data_set_in_a_folder_below_is_named(tmp_path: Path) -> None:
    labels = tmp_path / "VOCdevkit" / "VOC2007" / "Annotations"
    labels.mkdir(parents=True)
    (labels / "1.xml").write_text("<annotation><filename>1.jpg</filename></annotation>")
    with pytest.raises(DataError, match=r"VOCdevkit/; did you mean .*/VOCdevkit/VOC2007\?$"):
        find_splits(tmp_path)


def test_a_data_file_that_names_no_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("pictures: images\nnames: [cat]\n")
    for data in (tmp_path, tmp_path / "data.yaml"):
        with pytest.raises(DataError, match=r"names no split; expected one of train, val, test$"):
            find_splits(data)


def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text("a.jpg,1,2,3,4,dog")
    with pytest.raises(
        DataError, match=f"boxes.csv: a file, expected a data folder.*: {tmp_path}$"
    ):
        find_splits(file)


def test_coco_without_val_is_told_how_to_set_it_apart(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text("{}")
    with pytest.raises(DataError, match=r"no such annotation file; .*--val-share 0\.2 sets"):
        locate_split(tmp_path, "val")
