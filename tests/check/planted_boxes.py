# SPDX-License-Identifier: Apache-2.0
"""Faults of classes, boxes and anchors."""

from tests.check.planting import Plants, set_box
from tests.check.sets import HEIGHT, WIDTH, DataSet

PLANTS = Plants()
plants = PLANTS.under


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
