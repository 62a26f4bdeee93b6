# SPDX-License-Identifier: Apache-2.0
"""Faults of images."""

import shutil

import numpy as np
from PIL import Image

from tests.check.planting import Plants, set_box
from tests.check.sets import HEIGHT, WIDTH, DataSet, picture

PLANTS = Plants()
plants = PLANTS.under


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
