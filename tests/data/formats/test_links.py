# SPDX-License-Identifier: Apache-2.0
"""One rule for links in a data folder of any format: none leads out of it, unless it is wanted."""

import json
from pathlib import Path

import pytest

from effdet.annotations import AnnotationError
from effdet.data import CocoDataset, find_splits, locate_split, read_split
from tests.data.formats.making import csv_folder, picture, text, voc_object, voc_xml, yolo_folder

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
    "annotations": [],
    "categories": [{"id": 1, "name": "cat"}],
}


def coco(folder: Path) -> Path:
    text(folder / "annotations" / "instances_train.json", json.dumps(COCO))
    picture(folder / "train" / "a.jpg")
    return folder


def voc(folder: Path) -> Path:
    for stem in ("1", "2"):
        picture(folder / "JPEGImages" / f"{stem}.jpg")
        text(folder / "Annotations" / f"{stem}.xml", voc_xml(voc_object("x", (1, 1, 9, 9))))
        list_file = folder / "ImageSets" / "Main" / f"{'train' if stem == '1' else 'val'}.txt"
        text(list_file, f"{stem}\n")
    return folder


def voc_beside(folder: Path) -> Path:
    for split, stem in (("train", "1"), ("val", "2")):
        picture(folder / split / f"{stem}.jpg")
        text(folder / split / f"{stem}.xml", voc_xml(voc_object("x", (1, 1, 9, 9))))
    return folder


def yolo(folder: Path) -> Path:
    return yolo_folder(folder, {"a": "0 .5 .5 .1 .1\n"})


def yolo_list(folder: Path) -> Path:
    text(folder / "lists" / "train.txt", "images/a.jpg\n")
    data = "train: lists/train.txt\nnames: [cat]\n"
    return yolo_folder(folder, {"a": "0 .5 .5 .1 .1\n"}, data)


def yolo_path(folder: Path) -> Path:
    yolo_folder(folder / "deep", {"a": "0 .5 .5 .1 .1\n"})
    text(folder / "data.yaml", "path: deep\ntrain: images\nnames: [cat, dog]\n")
    return folder


def csv(folder: Path) -> Path:
    return csv_folder(folder, "a.jpg,1,2,3,4,dog\n", ["a.jpg"])


CASES = [
    (coco, "annotations"),
    (coco, "annotations/instances_train.json"),
    (coco, "train"),
    (coco, "train/a.jpg"),
    (voc, "Annotations"),
    (voc, "Annotations/1.xml"),
    (voc, "ImageSets"),
    (voc, "ImageSets/Main/train.txt"),
    (voc, "ImageSets/Main/val.txt"),  # whose classes are those of train too
    (voc, "JPEGImages"),
    (voc, "JPEGImages/1.jpg"),
    (voc_beside, "train"),
    (voc_beside, "val"),
    (voc_beside, "train/1.xml"),
    (yolo, "data.yaml"),
    (yolo, "images"),
    (yolo, "images/a.jpg"),
    (yolo, "labels"),
    (yolo, "labels/a.txt"),
    (yolo_list, "lists"),
    (yolo_list, "lists/train.txt"),
    (yolo_path, "deep"),
    (csv, "train.csv"),
    (csv, "images"),
    (csv, "images/a.jpg"),
]


def load(folder: Path, *, follow_links: bool = False) -> int:
    """Read ``train`` as training does; how many images it has."""
    files = find_splits(folder)["train"]
    table = read_split(files, follow_links=follow_links)
    return len(CocoDataset(table, files.images, follow_links=follow_links))


@pytest.mark.parametrize(("make", "name"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_a_link_out_of_the_folder_is_named_with_its_end_and_the_option(
    tmp_path: Path, make: object, name: str
) -> None:
    folder, outside = tmp_path / "data", tmp_path / "outside"
    assert callable(make)
    make(folder)
    assert load(folder) == 1
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(AnnotationError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.count("the link") == 1
    assert f"the link {folder / name} to {outside}" in message
    assert "--follow-links" in message
    assert "\n" not in message
    assert load(folder, follow_links=True) == 1


@pytest.mark.parametrize(("make", "name"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_links_within_the_folder_are_read_and_the_folder_may_be_one(
    tmp_path: Path, make: object, name: str
) -> None:
    folder = tmp_path / "data"
    assert callable(make)
    make(folder)
    store = folder / "store" / Path(name).name
    store.parent.mkdir()
    (folder / name).rename(store)
    (folder / name).symlink_to(store)
    assert load(folder) == 1
    (tmp_path / "link").symlink_to(folder)
    assert load(tmp_path / "link") == 1


def test_all_splits_may_link_to_one_store_of_images(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    picture(folder / "all" / "a.jpg")
    (folder / "train" / "a.jpg").unlink()
    (folder / "train" / "a.jpg").symlink_to("../all/a.jpg")
    assert load(folder) == 1


def test_paths_that_are_given_themselves_may_be_links(tmp_path: Path) -> None:
    folder = coco(tmp_path / "coco")
    for name in ("annotations/instances_train.json", "train"):
        (tmp_path / Path(name).name).symlink_to(folder / name)
    files = locate_split(None, "train", tmp_path / "instances_train.json", tmp_path / "train")
    assert len(CocoDataset(read_split(files), files.images)) == 1
