# SPDX-License-Identifier: Apache-2.0
"""YOLO txt: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.annotations import AnnotationError
from effdet.data import CocoDataset, find_splits, locate_split, read_split
from effdet.data.formats.yolo import label_name
from effdet.errors import DataError, UsageError
from effdet.structures import ClassMap
from tests.data.formats.making import picture, read_train, text, train_faults, yolo_folder


def test_a_box_is_centre_and_size_in_parts_of_the_image(tmp_path: Path) -> None:
    table = read_train(yolo_folder(tmp_path, {"a": "1 0.5 0.5 0.2 0.4\n\n0 0.25 0.5 0.5 1\n"}))
    assert table.boxes.tolist() == [[40, 15, 20, 20], [0, 0, 50, 50]]
    assert table.category_ids[table.category_index].tolist() == [1, 0]
    assert table.category_names == ("cat", "dog")
    assert table.sizes.tolist() == [[50, 100]]
    assert list(table.file_names) == ["images/a.jpg"]
    assert table.place(1, "bbox") == "labels/a.txt:3"


def test_an_image_without_labels_is_background(tmp_path: Path) -> None:
    folder = yolo_folder(tmp_path, {"a": "0 .5 .5 .1 .1\n", "b": None, "c": ""})
    data = CocoDataset(read_train(folder), folder)
    assert (data.report.images, data.report.empty_images, data.report.boxes) == (3, 2, 1)


def test_a_polygon_gives_its_box_and_is_counted(tmp_path: Path) -> None:
    lines = "1 0.1 0.1 0.3 0.1 0.2 0.5\n0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n"
    folder = yolo_folder(tmp_path, {"a": lines})
    table = read_train(folder)
    np.testing.assert_allclose(table.boxes, [[10, 5, 20, 20], [10, 10, 20, 20]])
    assert table.mended.counts["polygon"] == 2
    assert "boxes around polygons: 2" in str(CocoDataset(table, folder).report)
    with pytest.raises(AnnotationError, match=r"labels/a.txt:1: expected a box, found 3 points"):
        CocoDataset(table, folder, strict=True)


def test_a_class_with_a_point_is_counted(tmp_path: Path) -> None:
    table = read_train(yolo_folder(tmp_path, {"a": "1.0 .5 .5 .1 .1\n"}))
    assert table.mended.counts["whole-float"] == 1
    assert table.category_index.tolist() == [1]


@pytest.mark.parametrize(
    ("line", "kind", "found"),
    [
        ("2 .5 .5 .1 .1", "class-index", "2"),
        ("-1 .5 .5 .1 .1", "class-index", "-1"),
        ("0.5 .5 .5 .1 .1", "class-index", "0.5"),
        ("0 .5 .5 .1", "fields", "4 fields"),
        ("0 .5 .5 .1 .1 .9", "fields", "6 fields"),
        ("0", "fields", "1 fields"),
        ("0 50 25 10 10", "number", "50"),
        ("0 nan .5 .1 .1", "number", "nan"),
        ("0 inf .5 .1 .1", "number", "inf"),
        ("cat .5 .5 .1 .1", "number", "'cat'"),
        ("0 .5 .5 .1 x", "number", "'x'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, kind: str, found: str) -> None:
    faults = train_faults(yolo_folder(tmp_path, {"a": f"0 .5 .5 .1 .1\n{line}\n"}))
    assert [(fault[0], fault[1], fault[3]) for fault in faults] == [(kind, "labels/a.txt:2", found)]


def test_labels_that_are_no_text_are_named(tmp_path: Path) -> None:
    folder = yolo_folder(tmp_path, {"a": None})
    text(folder / "labels" / "a.txt", b"0 .5 .5 .1 .1\n\xff\xfe")
    assert train_faults(folder) == [("encoding", "labels/a.txt", "text in UTF-8", "byte 14")]


def test_not_one_label_file_is_a_mistake(tmp_path: Path) -> None:
    ((kind, _, expected, _),) = train_faults(yolo_folder(tmp_path, {"a": None, "b": None}))
    assert (kind, expected) == ("label-file", "label files such as labels/a.txt")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("nc: 2", "no such key"),
        ("names: []", "[]"),
        ("names: {0: a, 2: c}", "none for 1"),
        ("names: {1: a, 2: b}", "none for 0"),
        ("nc: 3\nnames: [a, b]", "2 names"),
        ("names: [a, '']", "''"),
        ("names: 5", "5"),
    ],
)
def test_missing_names_are_an_error(tmp_path: Path, names: str, found: str) -> None:
    folder = yolo_folder(tmp_path, {"a": "0 .5 .5 .1 .1"}, f"train: images\n{names}\n")
    faults = [fault for fault in train_faults(folder) if fault[0] == "class-names"]
    assert len(faults) == 1
    assert found in faults[0][3]


@pytest.mark.parametrize("names", ["[cat, dog, cat]", "{0: cat, 1: dog, 2: cat}"])
def test_two_classes_of_one_name_are_refused_with_both_places(tmp_path: Path, names: str) -> None:
    folder = yolo_folder(tmp_path, {"a": "0 .5 .5 .1 .1"}, f"train: images\nnames: {names}\n")
    ((kind, place, expected, found),) = train_faults(folder)
    assert (kind, place, expected) == ("same-name", "line 2 column 8[2]", "a name of its own")
    assert found == "'cat', as at [0]"


def test_case_tells_classes_apart(tmp_path: Path) -> None:
    data = "train: images\nnames: [cat, Cat]\n"
    table = read_train(yolo_folder(tmp_path, {"a": "1 .5 .5 .1 .1"}, data))
    assert table.category_names == ("cat", "Cat")


def test_names_may_be_a_mapping_and_numbers(tmp_path: Path) -> None:
    data = "train: images\nnames:\n  0: cat\n  1: 7\n"
    assert read_train(yolo_folder(tmp_path, {"a": ""}, data)).category_names == ("cat", "7")


@pytest.mark.parametrize("train", ["../train/images", "train/images", "./train/images"])
def test_the_layout_of_exporters_is_found(tmp_path: Path, train: str) -> None:
    text(tmp_path / "data.yaml", f"train: {train}\nval: ../valid/images\nnames: [cat]\n")
    for folder in ("train", "valid"):
        picture(tmp_path / folder / "images" / "a.jpg")
        text(tmp_path / folder / "labels" / "a.txt", "0 .5 .5 .1 .1\n")
    splits = find_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    assert list(read_split(splits["val"]).file_names) == ["valid/images/a.jpg"]
    assert list(read_split(splits["train"]).file_names) == ["train/images/a.jpg"]


def test_lists_and_several_folders_are_read(tmp_path: Path) -> None:
    data = "path: here\ntrain: [images/a, images/b]\nval: list.txt\nnames: [cat]\n"
    text(tmp_path / "data.yaml", data)
    root = tmp_path / "here"
    for name in ("a/1", "a/deep/2", "b/3"):
        picture(root / "images" / f"{name}.png")
        text(root / "labels" / f"{name}.txt", "0 .5 .5 .1 .1\n")
    text(root / "list.txt", f"./images/a/1.png\n\n{root}/images/b/3.png\nimages/a/deep/2.png\n")
    splits = find_splits(tmp_path)
    names = ["images/a/1.png", "images/a/deep/2.png", "images/b/3.png"]
    assert list(read_split(splits["train"]).file_names) == names
    table = read_split(splits["val"])
    assert list(table.file_names) == [names[0], names[2], names[1]]
    assert len(table.boxes) == 3


def test_the_data_file_may_be_given_instead_of_its_folder(tmp_path: Path) -> None:
    folder = yolo_folder(tmp_path, {"a": "0 .5 .5 .1 .1\n"})
    (folder / "data.yaml").rename(folder / "mine.yaml")
    text(folder / "notes.csv", "a,b\n")
    for data in (folder, folder / "mine.yaml"):
        assert locate_split(data, "train").annotations == folder / "mine.yaml"
    with pytest.raises(
        DataError, match=r"mine.yaml: no split 'val'; the data set \(YOLO txt\) has"
    ):
        locate_split(folder / "mine.yaml", "val")
    with pytest.raises(UsageError, match="leave the image folder out"):
        locate_split(folder, "train", images=folder)


@pytest.mark.parametrize(
    "entry", ["../elsewhere", "/etc", "~/../../x", "C:/data", "images/../../x"]
)
def test_paths_outside_the_folder_are_refused(tmp_path: Path, entry: str) -> None:
    picture(tmp_path / "elsewhere" / "x.jpg")
    folder = yolo_folder(tmp_path / "data", {"a": ""}, f"train: '{entry}'\nnames: [cat]\n")
    ((kind, place, _, found),) = train_faults(folder)
    assert kind in ("file-name", "missing-file")
    assert (place, entry in found) == ("line 1 column 8 (train)", True)
    text(folder / "data.yaml", f"path: '{entry}'\ntrain: images\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"data.yaml:1:7: path: expected a folder within"):
        find_splits(folder)
    data = "train: list.txt\nnames: [cat]\n"
    text(yolo_folder(folder, {"a": ""}, data) / "list.txt", f"images/a.jpg\n{entry}/x.jpg\n")
    faults = train_faults(folder)
    assert len(faults) == 1
    assert faults[0][:2] in (
        ("file-name", f"{folder}/list.txt:2"),
        ("missing-file", f"{folder}/list.txt:2"),
    )


def test_links_out_of_the_folder_are_refused_unless_wanted(tmp_path: Path) -> None:
    folder = yolo_folder(tmp_path / "data", {"a": None, "b": ""})
    outside = text(tmp_path / "secret.txt", "0 .5 .5 .1 .1\n")
    (folder / "labels" / "a.txt").symlink_to(outside)
    ((kind, place, _, _),) = train_faults(folder)
    assert (kind, place) == ("link", "labels/a.txt")
    files = find_splits(folder)["train"]
    assert len(read_split(files, follow_links=True).boxes) == 1


def test_sizes_are_those_of_upright_images_and_unreadable_ones_are_named(tmp_path: Path) -> None:
    folder = yolo_folder(tmp_path, {"a": "0 .5 .5 1 1\n"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(folder / "images" / "a.jpg", exif=exif)
    table = read_train(folder)
    assert table.sizes.tolist() == [[30, 20]]
    assert table.boxes.tolist() == [[0, 0, 20, 30]]
    CocoDataset(table, folder).load(0)
    text(folder / "images" / "a.jpg", b"\xff\xd8\xff nothing")
    ((kind, place, _, found),) = train_faults(folder)
    assert (kind, place) == ("image-file", "images/a.jpg")
    assert "damaged JPEG" in found


def test_classes_of_a_model_give_the_ids_by_name(tmp_path: Path) -> None:
    files = find_splits(yolo_folder(tmp_path, {"a": "1 .5 .5 .1 .1\n"}))["train"]
    model = ClassMap(names=("Dog", None, "cat"), category_ids=(18, None, 17))
    assert read_split(files, model).category_ids.tolist() == [17, 18]
    model = ClassMap(names=("dog", "cat", "dog"), category_ids=(1, 2, 3))
    with pytest.raises(AnnotationError, match=r"found 'dog', which 2 of its classes have$"):
        read_split(files, model)
    text(files.annotations, "train: images\nnames: [Cat, 'cat!']\n")
    model = ClassMap(names=("dogs", "cat"), category_ids=(1, 2))
    with pytest.raises(AnnotationError, match=r"of its own, not that of 'Cat', found 'cat!'$"):
        read_split(files, model)
    text(files.annotations, "train: images\nnames: [cat, dog]\n")
    with pytest.raises(AnnotationError, match=r"names: expected the name .* 'dog'; did you mean"):
        read_split(files, model)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a/b.x.jpg", "labels/a/b.x.txt"),
        ("images/images/b.png", "images/labels/b.txt"),
        ("train/images/b.png", "train/labels/b.txt"),
        ("myimages/b.png", "myimages/b.txt"),
        ("b.png", "b.txt"),
        ("images.png", "images.txt"),
    ],
)
def test_labels_are_beside_the_last_folder_of_images(image: str, label: str) -> None:
    assert label_name(image) == label


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = find_splits(yolo_folder(tmp_path, {"a": ""}))["train"]

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("effdet.data.formats.yolo.os.scandir", refuse)
    with pytest.raises(AnnotationError, match=r"images: cannot be read: Permission denied$"):
        read_split(files)


def test_a_broken_data_file_is_a_data_error(tmp_path: Path) -> None:
    text(tmp_path / "data.yaml", "train: images\nnames: [cat\n")
    with pytest.raises(DataError, match=r"data.yaml:3:1: not YAML"):
        find_splits(tmp_path)
