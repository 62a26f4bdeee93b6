# SPDX-License-Identifier: Apache-2.0
"""Every kind of finding planted into a set in which nothing is wrong, and found under its id."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.check import KINDS, CheckReport, check_data
from effdet.config import model_config
from tests.check.sets import HEIGHT, WIDTH, DataSet, picture

Plant = Callable[[DataSet], object]
PLANTS: dict[str, list[Plant]] = {}
"""By the id under which each must be found."""

ALSO: dict[str, set[str]] = {
    "files.missing": {"files.orphan"},
    "files.wrong_name": {"files.orphan"},
    "ids.duplicate_image": {"files.orphan"},
    "ids.gaps": {"classes.no_instances"},
    "splits.classes_differ": {"classes.only_in_val"},
    "classes.background": {"classes.no_instances"},
    "classes.same_name": {"classes.no_instances"},
    "classes.near_name": {"classes.few_instances"},
    "images.tiny": {"images.uniform"},
    "anchors.better": {"anchors.unreached"},
}
"""Warnings and errors that the same fault is bound to cause."""


def plants(id_: str) -> Callable[[Plant], Plant]:
    """Marks a function that plants a fault."""

    def add(plant: Plant) -> Plant:
        PLANTS.setdefault(id_, []).append(plant)
        return plant

    return add


def check(data: DataSet | Path, **options: object) -> CheckReport:
    if isinstance(data, DataSet):
        data.save()
        data = data.folder
    arguments = {"max_pixels": 10**6, "workers": 1} | options
    return check_data(str(data), model_config("efficientdet_d0"), **arguments)  # type: ignore[arg-type]


def found(report: CheckReport) -> dict[str, int]:
    return {finding.kind.id: finding.count for finding in report.findings}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DataSet(tmp_path_factory.mktemp("sound") / "data").folder


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path / "data")


def set_box(data: DataSet, bbox: list[float], index: int = 0) -> None:
    data.box(index)["bbox"], data.box(index)["area"] = bbox, bbox[2] * bbox[3]


# The annotation file


@plants("file.unreadable")
def _(data: DataSet) -> None:
    data.content["val"] = '{"images": ['


@plants("file.unreadable")
def _(data: DataSet) -> None:
    data.content["val"] = "[]"
    data.save()
    (data.folder / "annotations" / "instances_val.json").write_bytes(b"\xff\xfe\x00")
    del data.content["val"]


@plants("file.section")
def _(data: DataSet) -> None:
    del data.content["val"]["categories"]


@plants("file.row")
def _(data: DataSet) -> None:
    data.content["train"]["annotations"].append(7)


@plants("file.missing_field")
def _(data: DataSet) -> None:
    del data.box()["category_id"]


@plants("file.repeated_key")
def _(data: DataSet) -> None:
    data.save()
    file = data.folder / "annotations" / "instances_train.json"
    text = file.read_text()
    data.content["train"] = text.replace('"iscrowd": 0', '"iscrowd": 0, "iscrowd": 0', 1)


@plants("file.filled_in")
def _(data: DataSet) -> None:
    del data.box()["iscrowd"]


@plants("file.other_type")
def _(data: DataSet) -> None:
    data.box()["image_id"] = float(data.box()["image_id"])


# Ids


@plants("ids.wrong")
def _(data: DataSet) -> None:
    data.box()["id"] = "7"


@plants("ids.duplicate_image")
def _(data: DataSet) -> None:
    data.image(1)["id"] = data.image(0)["id"]
    for row in data.content["train"]["annotations"][2:4]:
        row["image_id"] = data.image(2)["id"]


@plants("ids.duplicate_annotation")
def _(data: DataSet) -> None:
    data.box(3)["id"] = data.box(0)["id"]


@plants("ids.duplicate_category")
def _(data: DataSet) -> None:
    for content in data.content.values():
        content["categories"].append({"id": 2, "name": "cow"})


@plants("ids.unknown_image")
def _(data: DataSet) -> None:
    data.add_box(999, [1, 2, 30, 40])


@plants("ids.unknown_category")
def _(data: DataSet) -> None:
    data.add_box(1, [1, 2, 30, 40], category=9)


@plants("ids.gaps")
def _(data: DataSet) -> None:
    for content in data.content.values():
        content["categories"].append({"id": 7, "name": "cow"})


@plants("ids.from_zero")
def _(data: DataSet) -> None:
    for content in data.content.values():
        for category in content["categories"]:
            category["id"] -= 1
        for row in content["annotations"]:
            row["category_id"] -= 1


# Splits


@plants("splits.missing")
def _(data: DataSet) -> None:
    (data.folder / "annotations" / "instances_val.json").unlink()
    shutil.rmtree(data.folder / "val")
    del data.content["val"]


@plants("splits.classes_differ")
def _(data: DataSet) -> None:
    data.content["val"]["categories"].append({"id": 3, "name": "cow"})
    for index in (0, 2, 4, 6, 8):
        data.box(index, "val")["category_id"] = 3


@plants("splits.classes_differ")
def _(data: DataSet) -> None:
    first, second = data.content["val"]["categories"]
    first["name"], second["name"] = second["name"], first["name"]


@plants("splits.classes_renamed")
def _(data: DataSet) -> None:
    data.content["val"]["categories"][0]["name"] = "kitten"


@plants("splits.leakage_exact")
def _(data: DataSet) -> None:
    shutil.copy(data.path(3), data.path(2, "val"))


@plants("splits.leakage_exact")
def _(data: DataSet) -> None:
    (data.folder / "val").rename(data.folder / "old")
    shutil.copytree(data.folder / "old", data.folder / "train", dirs_exist_ok=True)
    (data.folder / "train").rename(data.folder / "images")
    shutil.rmtree(data.folder / "old")
    data.image(0, "val")["file_name"] = data.image(0)["file_name"]
    (data.folder / "images" / "val13.png").unlink()


@plants("splits.leakage_near")
def _(data: DataSet) -> None:
    brighter = Image.eval(data.open(3), lambda value: min(255, value + 8))
    smaller = brighter.resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BILINEAR)
    smaller.resize((WIDTH, HEIGHT)).save(data.path(2, "val"))


# Image files


@plants("files.wrong_name")
def _(data: DataSet) -> None:
    data.image()["file_name"] = "../secret.png"


@plants("files.missing")
def _(data: DataSet) -> None:
    data.image()["file_name"] = "TRAIN1.png"


@plants("files.missing")
def _(data: DataSet) -> None:
    data.path().unlink()


@plants("files.link")
def _(data: DataSet) -> None:
    away = data.folder.parent / "away.png"
    data.path().rename(away)
    data.path().symlink_to(away)


@plants("files.orphan")
def _(data: DataSet) -> None:
    picture(np.random.default_rng(99)).save(data.folder / "val" / "new.jpg")


@plants("files.listed_twice")
def _(data: DataSet) -> None:
    data.add_image(data.image()["file_name"])


@plants("files.case_collision")
def _(data: DataSet) -> None:
    picture(np.random.default_rng(99)).save(data.folder / "train" / "TRAIN1.png")
    data.add_image("TRAIN1.png")


# Images


@plants("images.size_unknown")
def _(data: DataSet) -> None:
    data.image()["width"] = "128"


@plants("images.size_differs")
def _(data: DataSet) -> None:
    data.image()["width"], data.image()["height"] = 640, 480


@plants("images.size_differs")
def _(data: DataSet) -> None:
    record = data.image()
    record["width"], record["height"] = HEIGHT, WIDTH
    set_box(data, [1, 1, 30, 30])
    set_box(data, [40, 40, 30, 30], 1)


@plants("images.unreadable")
def _(data: DataSet) -> None:
    data.path().write_bytes(b"P6 128 96 255 no image")


@plants("images.truncated")
def _(data: DataSet) -> None:
    data.path().write_bytes(data.path().read_bytes()[:-2000])


@plants("images.truncated")
def _(data: DataSet) -> None:
    name = data.path().with_suffix(".jpg")
    data.open().save(name, quality=95)
    data.path().unlink()
    name.write_bytes(name.read_bytes()[:-1500])
    data.image()["file_name"] = name.name


@plants("images.too_large")
def _(data: DataSet) -> None:
    picture(np.random.default_rng(99), 1200, 900).save(data.folder / "train" / "large.png")
    data.add_image("large.png", width=1200, height=900)


def save_turned(data: DataSet, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    name = data.path().with_suffix(".jpg")
    data.open().resize(size).save(name, exif=exif, quality=95)
    data.path().unlink()
    data.image()["file_name"] = name.name


@plants("images.exif_turned")
def _(data: DataSet) -> None:
    save_turned(data, 6, (HEIGHT, WIDTH))


@plants("images.exif_unclear")
def _(data: DataSet) -> None:
    save_turned(data, 6, (WIDTH, HEIGHT))


@plants("images.exif_unclear")
def _(data: DataSet) -> None:
    save_turned(data, 3, (WIDTH, HEIGHT))


@plants("images.duplicate_exact")
def _(data: DataSet) -> None:
    shutil.copy(data.path(3), data.path(5))


@plants("images.duplicate_near")
def _(data: DataSet) -> None:
    name = data.path(5).with_suffix(".jpg")
    data.open(3).save(name, quality=60)
    data.path(5).unlink()
    data.image(5)["file_name"] = name.name


@plants("images.uniform")
def _(data: DataSet) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 92)).save(data.path())


def add_picture(data: DataSet, width: int, height: int, mode: str = "RGB") -> None:
    image = picture(np.random.default_rng(99), width, height).convert(mode)
    image.save(data.folder / "train" / "odd.tif")
    data.add_image("odd.tif", width=width, height=height)
    set_box(data, [0, 0, width / 2, height / 2], -1)


@plants("images.tiny")
def _(data: DataSet) -> None:
    add_picture(data, 20, 30)


@plants("images.tiny")
def _(data: DataSet) -> None:
    add_picture(data, 1, 1)


@plants("images.extreme_shape")
def _(data: DataSet) -> None:
    add_picture(data, 400, 60)


@plants("images.odd_mode")
def _(data: DataSet) -> None:
    add_picture(data, 120, 90, "CMYK")


@plants("images.more_frames")
def _(data: DataSet) -> None:
    other = picture(np.random.default_rng(99))
    data.path().unlink()
    data.image()["file_name"] = "train1.gif"
    data.open(1).save(data.path(), save_all=True, append_images=[other])
    other.save(data.path(1))


@plants("images.without_boxes")
def _(data: DataSet) -> None:
    del data.content["val"]["annotations"][:2]


@plants("images.mostly_empty")
def _(data: DataSet) -> None:
    del data.content["val"]["annotations"][2:]


@plants("images.crowded")
def _(data: DataSet) -> None:
    for number in range(101):
        data.add_box(1, [1 + number % 50, 1 + number // 50 * 5, 30, 30 + number // 50])


# Classes


@plants("classes.wrong_name")
def _(data: DataSet) -> None:
    for content in data.content.values():
        content["categories"][0]["name"] = 5


@plants("classes.same_name")
def _(data: DataSet) -> None:
    for content in data.content.values():
        content["categories"].append({"id": 3, "name": " Cat"})


@plants("classes.same_name")
def _(data: DataSet) -> None:
    for content in data.content.values():
        content["categories"].append({"id": 3, "name": "cat"})  # without a box


@plants("classes.name_twice")
def _(data: DataSet) -> None:
    for content in data.content.values():
        content["categories"][1]["name"] = "cat"


@plants("classes.near_name")
def _(data: DataSet) -> None:
    for split, content in data.content.items():
        content["categories"][1]["name"] = "Platelets"
        content["categories"].append({"id": 3, "name": "Platlet"})
        data.add_box(data.image(0, split)["id"], [1, 1, 40, 40], split, category=3)
    for number in range(30):
        data.add_box(2 + number % 10, [1 + number, 1 + number, 40, 41], category=2)


@plants("classes.background")
def _(data: DataSet) -> None:
    for content in data.content.values():
        content["categories"].append({"id": 3, "name": "__background__"})


@plants("classes.no_instances")
def _(data: DataSet) -> None:
    for content in data.content.values():
        content["categories"].append({"id": 3, "name": "cow"})


def add_class(data: DataSet, count: int, split: str) -> None:
    for content in data.content.values():
        content["categories"].append({"id": 3, "name": "cow"})
    image = data.image(0, split)["id"]
    for number in range(count):
        data.add_box(image, [1 + 3 * number, 1 + 3 * number, 40, 40], split, category=3)


@plants("classes.few_instances")
def _(data: DataSet) -> None:
    add_class(data, 5, "train")
    data.add_box(data.image(0, "val")["id"], [1, 1, 40, 40], "val", category=3)


@plants("classes.only_in_train")
def _(data: DataSet) -> None:
    add_class(data, 12, "train")


@plants("classes.only_in_val")
def _(data: DataSet) -> None:
    add_class(data, 12, "val")


@plants("classes.imbalance")
def _(data: DataSet) -> None:
    add_class(data, 10, "train")
    data.add_box(data.image(0, "val")["id"], [1, 1, 40, 40], "val", category=3)
    for number in range(1200):
        data.add_box(2 + number % 11, [1 + number % 60, 1 + number // 60, 40, 41])


# Boxes


@plants("boxes.wrong")
def _(data: DataSet) -> None:
    data.box()["bbox"] = [1, 2, 3]


@plants("boxes.wrong_area")
def _(data: DataSet) -> None:
    data.box()["area"] = -5


@plants("boxes.wrong_iscrowd")
def _(data: DataSet) -> None:
    data.box()["iscrowd"] = 2


@plants("boxes.xyxy")
def _(data: DataSet) -> None:
    for row in data.content["train"]["annotations"]:
        x, y, width, height = row["bbox"]
        row["bbox"] = [x, y, x + width, y + height]


@plants("boxes.fractions")
def _(data: DataSet) -> None:
    for row in data.content["train"]["annotations"]:
        x, y, width, height = row["bbox"]
        row["bbox"] = [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT]


@plants("boxes.empty")
def _(data: DataSet) -> None:
    data.box()["bbox"] = [5, 5, 0, 10]


@plants("boxes.empty")
def _(data: DataSet) -> None:
    data.box()["bbox"] = [50, 50, -20, 10]


@plants("boxes.outside")
def _(data: DataSet) -> None:
    set_box(data, [WIDTH + 5, 5, 20, 20])


@plants("boxes.clipped")
def _(data: DataSet) -> None:
    data.box()["bbox"] = [WIDTH - 20, 5, 40, 40]


@plants("boxes.tiny")
def _(data: DataSet) -> None:
    set_box(data, [50, 50, 0.8, 0.8])


@plants("boxes.extreme_shape")
def _(data: DataSet) -> None:
    set_box(data, [5, 50, 110, 8])


@plants("boxes.whole_image")
def _(data: DataSet) -> None:
    set_box(data, [0, 0, WIDTH, HEIGHT])


@plants("boxes.duplicate")
def _(data: DataSet) -> None:
    row = data.box(4)
    data.add_box(row["image_id"], row["bbox"], category=row["category_id"])


@plants("boxes.two_classes")
def _(data: DataSet) -> None:
    row = data.box(4)
    data.add_box(row["image_id"], row["bbox"], category=3 - row["category_id"])


@plants("boxes.area_too_large")
def _(data: DataSet) -> None:
    data.box()["area"] = 9000


# Anchors


@plants("anchors.unreached")
def _(data: DataSet) -> None:
    for row in data.content["train"]["annotations"]:
        row["bbox"][2:] = [1.5, 30]
        row["area"] = 45


@plants("anchors.better")
def _(data: DataSet) -> None:
    for row in data.content["train"]["annotations"]:
        row["bbox"] = [4, row["bbox"][1], 120, 20]
        row["area"] = 2400


CASES = [(id_, number) for id_, planted in PLANTS.items() for number in range(len(planted))]


def test_every_kind_is_planted() -> None:
    formats = {"file.damaged"}  # of formats with a file an image: test_reading.py
    assert set(PLANTS) == set(KINDS) - formats
    assert len(PLANTS) >= 30


def test_nothing_is_found_where_nothing_is_wrong(sound: Path) -> None:
    report = check(sound)
    assert found(report) == {}
    assert report.anchors is not None
    assert report.anchors.own.reached == 1


@pytest.mark.parametrize(("id_", "number"), CASES, ids=[f"{i}-{n}" for i, n in CASES])
def test_a_planted_fault_is_found_under_its_id(id_: str, number: int, data: DataSet) -> None:
    PLANTS[id_][number](data)
    report = check(data)
    assert id_ in found(report), found(report)
    others = {
        finding.kind.id
        for finding in report.findings
        if finding.kind.severity != "info" and finding.kind.id != id_
    }
    assert others <= ALSO.get(id_, set())
    for finding in report.findings:
        assert len(finding.examples) <= 5
        assert finding.examples, finding.kind.id
