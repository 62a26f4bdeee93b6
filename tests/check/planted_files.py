# SPDX-License-Identifier: Apache-2.0
"""Faults of annotation files, their ids, splits and names of images."""

import shutil

import numpy as np
from PIL import Image

from tests.check.planting import Plants
from tests.check.sets import HEIGHT, WIDTH, DataSet, picture

PLANTS = Plants()
plants = PLANTS.under


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
