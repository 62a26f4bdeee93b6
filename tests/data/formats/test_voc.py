# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC XML: what is read, and what is refused."""

from pathlib import Path

import pytest

from effdet.annotations import AnnotationError
from effdet.data import CocoDataset, find_splits, locate_split, read_split
from effdet.errors import DataError
from effdet.structures import ClassMap
from tests.data.formats.making import (
    picture,
    read_train,
    text,
    train_faults,
    voc_folder,
    voc_object,
    voc_xml,
)


def test_pixels_count_from_1_and_both_corners_belong_to_the_box(tmp_path: Path) -> None:
    objects = voc_object("dog", (1, 1, 100, 50)) + voc_object("cat", (11, 21, 11, 30))
    table = read_train(voc_folder(tmp_path, {"a": objects}))
    assert table.boxes.tolist() == [[0, 0, 100, 50], [10, 20, 1, 10]]
    assert table.areas.tolist() == [5000, 10]
    assert table.category_names == ("cat", "dog")
    assert table.category_ids.tolist() == [1, 2]
    assert table.place(1, "bbox") == "a.xml object 2"


def test_a_0_in_any_file_shows_edges_from_0(tmp_path: Path) -> None:
    first, second = voc_object("dog", (0, 5, 100, 50)), voc_object("cat", (10, 20, 30, 30))
    folder = voc_folder(tmp_path, {"a": first, "b": second})
    assert read_train(folder).boxes.tolist() == [[0, 5, 100, 45], [10, 20, 20, 10]]
    assert CocoDataset(read_train(folder), folder / "train").report.clipped == 0
    (folder / "train").rename(folder / "val")
    voc_folder(tmp_path, {"c": second})
    assert read_train(folder).boxes.tolist() == [[10, 20, 20, 10]]  # a 0 in another split
    stated = voc_xml(second + "<coordinates>1-based</coordinates>")
    text(folder / "train" / "c.xml", stated)
    assert read_train(folder).boxes.tolist() == [[9, 19, 21, 11]]


def test_all_digits_of_a_corner_count(tmp_path: Path) -> None:
    table = read_train(voc_folder(tmp_path, {"a": voc_object("x", ("1.1", "2.3", "4.7", "9.9"))}))
    assert table.boxes.tolist() == [[0.1, 1.3, 4.6, 8.6]]


def test_difficult_objects_are_ignored_regions_and_truncated_ones_are_objects(
    tmp_path: Path,
) -> None:
    objects = [
        voc_object("x", (1, 1, 9, 9), "<difficult>1</difficult>"),
        voc_object("x", (1, 1, 9, 9), "<difficult>0</difficult><truncated>1</truncated>"),
    ]
    assert read_train(voc_folder(tmp_path, {"a": "".join(objects)})).crowd.tolist() == [True, False]


def test_parts_of_objects_are_not_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>"
    table = read_train(voc_folder(tmp_path, {"a": voc_object("x", (1, 1, 9, 9), part)}))
    assert table.category_names == ("x",)
    assert table.boxes.tolist() == [[0, 0, 9, 9]]


def test_the_devkits_layout_with_its_lists_is_found(tmp_path: Path) -> None:
    for stem, name in (("1", "dog"), ("2", "cat"), ("3", "owl")):
        picture(tmp_path / "JPEGImages" / f"{stem}.jpg")
        text(tmp_path / "Annotations" / f"{stem}.xml", voc_xml(voc_object(name, (1, 1, 9, 9))))
    for split, lines in (("train", "1\n"), ("val", "2  1\n\n3 -1\n"), ("trainval", "1\n2\n3\n")):
        text(tmp_path / "ImageSets" / "Main" / f"{split}.txt", lines)
    splits = find_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    assert len(read_split(locate_split(tmp_path, "trainval")).boxes) == 3
    table = read_split(splits["val"])
    assert list(table.file_names) == ["2.jpg", "3.jpg"]
    assert table.category_names == ("cat", "dog", "owl")  # of all splits
    assert splits["val"].images == tmp_path / "JPEGImages"
    assert splits["val"].annotations == tmp_path
    with pytest.raises(DataError, match=r"no split 'test'; the data set \(Pascal VOC XML\) has tr"):
        locate_split(tmp_path, "test")


@pytest.mark.parametrize("labels", ["annotations", "."])
def test_one_folder_of_files_is_the_split_train(tmp_path: Path, labels: str) -> None:
    text(tmp_path / labels / "a.xml", voc_xml(voc_object("x", (1, 1, 9, 9))))
    picture(tmp_path / ("images" if labels == "annotations" else ".") / "a.png")
    (tmp_path / "images").mkdir(exist_ok=True)  # of something else, where images lie beside
    assert list(find_splits(tmp_path)) == ["train"]
    assert list(read_train(tmp_path).file_names) == ["a.png"]
    with pytest.raises(DataError, match=r"--val-share 0.2 sets images apart"):
        locate_split(tmp_path, "val")


def test_valid_is_val_and_splits_share_their_classes(tmp_path: Path) -> None:
    voc_folder(tmp_path, {"a": voc_object("dog", (1, 1, 9, 9))})
    (tmp_path / "train").rename(tmp_path / "valid")
    voc_folder(tmp_path, {"b": voc_object("ant", (1, 1, 9, 9))})
    splits = find_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    train, val = (read_split(splits[name]) for name in ("train", "val"))
    assert train.category_names == val.category_names == ("ant", "dog")
    assert val.category_index.tolist() == [1]


def test_sizes_that_are_not_recorded_are_read(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path, {"a": ""})
    for size in ("", "<size><width>0</width><height>0</height></size>"):
        text(folder / "train" / "a.xml", voc_xml(voc_object("x", (1, 1, 9, 9)), size=size))
        assert read_train(folder).sizes.tolist() == [[50, 100]]


def fault(tmp_path: Path, content: str | bytes) -> tuple[str, str, str, str]:
    folder = voc_folder(tmp_path, {"a": "", "b": voc_object("dog", (1, 1, 9, 9))})
    text(folder / "train" / "a.xml", content)
    (found,) = train_faults(folder)
    return found


@pytest.mark.parametrize(
    ("content", "kind", "place"),
    [
        ("<annotation><object>", "xml", "a.xml"),
        ("", "xml", "a.xml"),
        ("<annotations/>", "xml", "a.xml"),
        (b"<annotation>\xff</annotation>", "xml", "a.xml"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "xml", "a.xml"),
        ("<annotation>" + "<a>" * 60 + "</a>" * 60 + "</annotation>", "xml", "a.xml"),
        ("<!DOCTYPE annotation><annotation/>", "doctype", "a.xml"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>&b;</annotation>", "doctype", "a.xml"),
        ("<!DOCTYPE a SYSTEM 'file:///etc/x'><annotation/>".encode("utf-16"), "doctype", "a.xml"),
        (voc_xml(voc_object("", (1, 1, 9, 9))), "category-name", "a.xml object 1 name"),
        (voc_xml(voc_object("x", (1, 1, 9))), "box", "a.xml object 1 bndbox/ymax"),
        (voc_xml(voc_object("x", (1, "nan", 9, 9))), "box", "a.xml object 1 bndbox/ymin"),
        (voc_xml(voc_object("x", (1, "1_0", 9, 9))), "box", "a.xml object 1 bndbox/ymin"),
        (
            voc_xml(voc_object("x", (1, 1, 9, 9)) + voc_object("x", ("e", 1, 9, 9))),
            "box",
            "a.xml object 2 bndbox/xmin",
        ),
        (
            voc_xml(voc_object("x", (1, 1, 9, 9), "<difficult>2</difficult>")),
            "crowd",
            "a.xml object 1 difficult",
        ),
        (voc_xml(size="<size><width>-3</width></size>"), "image-size", "a.xml size/width"),
        (voc_xml(size="<size><height>2.5</height></size>"), "image-size", "a.xml size/height"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    tmp_path: Path, content: str | bytes, kind: str, place: str
) -> None:
    assert fault(tmp_path, content)[:2] == (kind, place)


def test_a_file_of_more_than_its_cap_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effdet.data.formats.voc_xml.MAX_BYTES", 300)
    kind, place, _, found = fault(tmp_path, voc_xml("<!-- long -->" * 40))
    assert (kind, place) == ("xml", "a.xml")
    assert "more than 300" in found


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc/passwd", "nothing"])
def test_lists_lead_nowhere_else(tmp_path: Path, line: str) -> None:
    picture(tmp_path / "JPEGImages" / "1.jpg")
    text(tmp_path / "Annotations" / "1.xml", voc_xml(voc_object("x", (1, 1, 9, 9))))
    path = text(tmp_path / "ImageSets" / "Main" / "train.txt", f"1\n{line}\n")
    ((kind, place, _, _),) = train_faults(tmp_path)
    assert (kind, place) == ("label-file" if line == "nothing" else "file-name", f"{path}:2")


def test_the_image_is_that_of_the_same_name_else_the_named_one(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path, {"a": voc_object("x", (1, 1, 9, 9))})
    text(folder / "train" / "a.xml", voc_xml(voc_object("x", (1, 1, 9, 9)), "/somewhere/else.jpg"))
    assert list(read_train(folder).file_names) == ["a.jpg"]
    (folder / "train" / "a.jpg").rename(folder / "train" / "b.jpg")
    ((kind, place, _, found),) = train_faults(folder)
    assert (kind, place) == ("file-name", "a.xml")
    assert "absolute path" in found
    text(folder / "train" / "a.xml", voc_xml(voc_object("x", (1, 1, 9, 9)), "b.jpg"))
    assert list(read_train(folder).file_names) == ["b.jpg"]
    (folder / "train" / "b.jpg").unlink()
    ((kind, *_),) = train_faults(folder)
    assert kind == "missing-file"


def test_two_images_of_one_name_need_the_file_to_say_which(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path, {"a": voc_object("x", (1, 1, 9, 9))})
    picture(folder / "train" / "a.png")
    assert list(read_train(folder).file_names) == ["a.jpg"]
    text(folder / "train" / "a.xml", voc_xml(voc_object("x", (1, 1, 9, 9))))
    ((kind, _, expected, _),) = train_faults(folder)
    assert (kind, expected) == ("file-name", "one of a.jpg, a.png")


def test_classes_of_a_model_give_the_ids_by_name_and_unknown_ones_are_named(
    tmp_path: Path,
) -> None:
    files = find_splits(voc_folder(tmp_path, {"a": voc_object("dog", (1, 1, 9, 9))}))["train"]
    model = ClassMap(names=("cat", "dog"), category_ids=(17, 18))
    assert read_split(files, model).category_ids.tolist() == [18]
    model = ClassMap(names=("cat", "dogs"), category_ids=(17, 18))
    with pytest.raises(
        AnnotationError,
        match=r"a.xml object 1 name: expected the name of .* found 'dog'; did you mean dogs\?$",
    ):
        read_split(files, model)


def test_boxes_of_no_width_are_left_out_and_counted(tmp_path: Path) -> None:
    objects = voc_object("x", (9, 9, 5, 5)) + voc_object("x", (1, 1, 9, 9))
    folder = voc_folder(tmp_path, {"a": objects})
    report = CocoDataset(read_train(folder), folder / "train").report
    assert (report.boxes, report.dropped_no_area) == (1, 1)
    with pytest.raises(AnnotationError, match=r"a.xml object 1: expected a width and a height ab"):
        CocoDataset(read_train(folder), folder / "train", strict=True)


def test_files_without_any_object_have_no_classes(tmp_path: Path) -> None:
    ((kind, _, expected, _),) = train_faults(voc_folder(tmp_path, {"a": ""}))
    assert (kind, expected) == ("section", "at least one object")
