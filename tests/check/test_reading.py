# SPDX-License-Identifier: Apache-2.0
"""Files with faults in every format: each is told, and the rest is looked at all the same."""

import re
from collections import Counter
from pathlib import Path

import pytest

from effdet.annotations import KINDS as FAULTS
from effdet.check import KINDS, CheckReport, check_data
from effdet.check.registry import OF_FAULT
from effdet.check.text import format_example
from effdet.config import model_config
from tests.check.sets import HEIGHT, WIDTH, DataSet
from tests.data.formats.making import text, voc_object, voc_xml


def check(folder: Path) -> CheckReport:
    return check_data(str(folder), model_config("efficientdet_d0"), max_pixels=10**6)


def found(folder: Path) -> dict[str, int]:
    return {finding.kind.id: finding.count for finding in check(folder).findings}


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path / "data")


def test_every_fault_of_a_reader_is_a_finding() -> None:
    assert set(OF_FAULT) == set(FAULTS)
    assert set(OF_FAULT.values()) <= set(KINDS)


def as_yolo(data: DataSet, folder: Path) -> Path:
    """The set in YOLO's format: ``images/`` and ``labels/`` with a folder a split."""
    text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    for split, content in data.content.items():
        (folder / "images").mkdir(exist_ok=True)
        (data.folder / split).rename(folder / "images" / split)
        for image in content["images"]:
            lines = []
            for row in content["annotations"]:
                if row["image_id"] == image["id"]:
                    x, y, width, height = row["bbox"]
                    values = (x + width / 2, y + height / 2, width, height)
                    parts = [v / s for v, s in zip(values, (WIDTH, HEIGHT) * 2, strict=True)]
                    lines.append(f"{row['category_id'] - 1} " + " ".join(map(str, parts)))
            name = Path(image["file_name"]).with_suffix(".txt").name
            text(folder / "labels" / split / name, "\n".join(lines))
    return folder


def as_voc(data: DataSet, folder: Path) -> Path:
    """The set with an XML file beside each image."""
    names = {1: "cat", 2: "dog"}
    for split, content in data.content.items():
        folder.mkdir(exist_ok=True)
        (data.folder / split).rename(folder / split)
        for image in content["images"]:
            objects = ""
            for row in content["annotations"]:
                if row["image_id"] == image["id"]:
                    x, y, width, height = row["bbox"]
                    corners = (x + 1, y + 1, x + width, y + height)
                    objects += voc_object(names[row["category_id"]], corners)
            size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            name = Path(image["file_name"]).with_suffix(".xml").name
            text(folder / split / name, voc_xml(objects, image["file_name"], size))
    return folder


def test_a_sound_yolo_set_is_sound(data: DataSet, tmp_path: Path) -> None:
    assert found(as_yolo(data, tmp_path / "yolo")) == {}


def test_a_sound_voc_set_is_sound(data: DataSet, tmp_path: Path) -> None:
    assert found(as_voc(data, tmp_path / "voc")) == {}


def test_a_yolo_set_is_looked_at_although_it_has_faults(data: DataSet, tmp_path: Path) -> None:
    folder = as_yolo(data, tmp_path / "yolo")
    labels, images = folder / "labels" / "train", folder / "images" / "train"
    text(labels / "train1.txt", "7 0.5 0.5 0.3 0.3\n0 0.5 0.5 0.3 0.3")
    text(labels / "train2.txt", "0 0.5 0.5 0.3\n0 0.5 0.5 0.3 0.3")
    text(labels / "train3.txt", "0 64 48 30 30\n0 0.5 0.5 0.3 0.3")
    text(labels / "train4.txt", b"\xff\xfe")
    text(labels / "train5.txt", "0 0.5 0.5 0.3 0.3\n0 0.5 0.5 0.3 0.3")
    (images / "train6.png").write_bytes(b"no image")
    counts = found(folder)
    assert counts == {
        "file.damaged": 1,
        "file.row": 1,
        "ids.unknown_category": 1,
        "boxes.wrong": 1,
        "boxes.duplicate": 1,
        "classes.few_instances": 1,  # of those that are left
        "images.unreadable": 1,
        "images.without_boxes": counts["images.without_boxes"],
    }
    (copy,) = [f for f in check(folder).findings if f.kind.id == "boxes.duplicate"]
    assert "train5.txt:2: " in copy.examples[0].text


def test_a_name_twice_in_data_yaml_is_an_error_of_each_split(data: DataSet, tmp_path: Path) -> None:
    folder = as_yolo(data, tmp_path / "yolo")
    text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, cat]\n")
    assert found(folder)["classes.name_twice"] == 2


def test_where_data_yaml_has_no_names_it_is_said_where_they_belong(
    data: DataSet, tmp_path: Path
) -> None:
    file = as_yolo(data, tmp_path / "yolo") / "data.yaml"
    file.write_text(file.read_text().replace("names: [cat, dog]", "nc: 2"))
    (finding,) = check(tmp_path / "yolo").findings
    assert finding.kind.id == "classes.wrong_name"
    assert "in a data.yaml under names" in finding.kind.advice
    assert "as a list ([cat, dog])" in format_example(finding.examples[0])


def test_a_voc_set_is_looked_at_although_it_has_faults(data: DataSet, tmp_path: Path) -> None:
    folder = as_voc(data, tmp_path / "voc")
    train = folder / "train"
    text(train / "train1.xml", "<annotation>")
    size = "<size><width>many</width><height>96</height></size>"
    text(train / "train2.xml", voc_xml(voc_object("cat", (5, 5, 40, 40)), "train2.png", size))
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    wrong = voc_object("cat", (5, "x", 40, 40)) + voc_object("cat", (5, 60, 40, 50))
    text(train / "train3.xml", voc_xml(wrong, "train3.png", size))
    (train / "train4.png").unlink()
    counts = found(folder)
    assert counts["file.damaged"] == 1
    assert counts["images.size_unknown"] == 1
    assert counts["boxes.wrong"] == 1
    assert counts["boxes.empty"] == 1
    assert counts["files.missing"] == 1


@pytest.mark.parametrize("form", ["coco", "voc", "yolo", "csv"])
def test_an_example_shows_the_box_as_its_file_has_it(
    data: DataSet, tmp_path: Path, form: str
) -> None:
    data.box(3)["bbox"], data.box(3)["area"] = [64, 48, 64, 72], 64 * 72
    folder = data.folder
    if form == "voc":
        folder = as_voc(data, tmp_path / "voc")
    elif form == "yolo":
        folder = as_yolo(data, tmp_path / "yolo")
    elif form == "csv":
        lines = [
            f"train{row['image_id']}.png,{x},{y},{x + width},{y + height},{row['category_id']}x"
            for row in data.content["train"]["annotations"]
            for x, y, width, height in [row["bbox"]]
        ]
        folder = data.folder / "train"
        text(folder / "train.csv", "\n".join(lines))
    data.save()
    (finding,) = [f for f in check(folder).findings if f.kind.id == "boxes.clipped"]
    (example,) = finding.examples
    written = {
        "coco": "[64, 48, 64, 72]",
        "voc": "train2.xml object 2: xmin 65, ymin 49, xmax 128, ymax 120",
        "yolo": "labels/train/train2.txt:2: 0.75 0.875 0.5 0.75",
        "csv": "line 4: xmin 64, ymin 48, xmax 128, ymax 120",
    }
    assert example.text == f"{written[form]} in 128 x 96"
    assert (example.file or "").endswith("train2.png")
    assert example.annotation == (22 if form == "coco" else None)


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_no_text_has_ids_where_the_files_have_none(
    data: DataSet, tmp_path: Path, form: str
) -> None:
    data.content["train"]["annotations"].append(data.box(0) | {"category_id": 2, "id": 900})
    data.content["val"]["annotations"].append(data.box(0, "val") | {"id": 901})
    folder = (as_voc if form == "voc" else as_yolo)(data, tmp_path / form)
    images = folder / "images" if form == "yolo" else folder
    (images / "train" / "train5.png").unlink()
    findings = {finding.kind.id: finding for finding in check(folder).findings}
    assert {"boxes.two_classes", "boxes.duplicate"} <= set(findings)
    assert ("files.missing" in findings) == (form == "voc")  # YOLO has no record of the image
    place = "train1.xml object 3" if form == "voc" else "train1.txt:3"
    assert place in findings["boxes.two_classes"].examples[0].text
    for finding in findings.values():
        for example in finding.examples:
            assert "annotation " not in format_example(example)
            assert not re.search(r"\bimages? \d", format_example(example))


def test_rows_beside_wrong_ones_are_looked_at(data: DataSet) -> None:
    rows = data.content["train"]["annotations"]
    rows[0]["bbox"] = "?"
    rows[1]["category_id"] = 9
    rows[2]["image_id"] = 999
    rows[3]["bbox"], rows[3]["area"] = [500, 5, 20, 20], 400
    data.image(4)["id"] = "five"  # and the two boxes of image 5 with it
    data.image(5)["height"] = None
    data.save()
    report = check(data.folder)
    counts = {finding.kind.id: finding.count for finding in report.findings}
    assert counts["boxes.wrong"] == counts["boxes.outside"] == counts["images.size_unknown"] == 1
    assert counts["ids.wrong"] == counts["ids.unknown_category"] == 1
    assert counts["ids.unknown_image"] == 3
    train = report.splits[0]
    assert (train.images, train.boxes) == (11, 24 - 5)
    val = report.splits[1]
    assert (val.images, val.boxes) == (6, 12)


def test_of_many_faults_all_are_counted_and_few_shown(data: DataSet) -> None:
    for row in data.content["train"]["annotations"]:
        row["bbox"] = [1, 2, 3]
    data.save()
    (finding,) = [f for f in check(data.folder).findings if f.kind.id == "boxes.wrong"]
    assert finding.count == 24
    assert len(finding.examples) == 5
    assert finding.examples[0].text == (
        "annotations[0].bbox: expected 4 finite numbers (x, y, width, height) below 1,000,000,000 "
        "pixels, found [1, 2, 3]"
    )
    assert finding.examples[0].file == "train1.png"
    assert finding.examples[0].annotation == 11


def test_an_unreadable_split_does_not_hide_the_other(data: DataSet) -> None:
    data.box(0, "val")["bbox"] = [500, 5, 20, 20]
    data.save()
    (data.folder / "annotations" / "instances_train.json").write_text("{")
    report = check(data.folder)
    ids = Counter(finding.kind.id for finding in report.findings)
    assert ids["file.unreadable"] == ids["boxes.outside"] == 1
    assert [split.name for split in report.splits] == ["val"]
