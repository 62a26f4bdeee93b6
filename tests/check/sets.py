# SPDX-License-Identifier: Apache-2.0
"""A small data set in which nothing is wrong, to be spoilt."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 128, 96
IMAGES = {"train": 12, "val": 6}
BOXES = 2
"""Of each image, one a class."""


class DataSet:
    """A data set in COCO's layout, of which files and annotations can be changed.

    Attributes:
        folder: the data folder.
        content: what the annotation file of each split holds; :meth:`save` writes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {}
        (folder / "annotations").mkdir(parents=True)
        generator = np.random.default_rng(7)
        number = 0
        for split, count in IMAGES.items():
            (folder / split).mkdir()
            images, annotations = [], []
            for _ in range(count):
                number += 1
                name = f"{split}{number}.png"
                picture(generator).save(folder / split / name)
                images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
                annotations += list(boxes(generator, number))
            self.content[split] = {
                "images": images,
                "annotations": annotations,
                "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            }
        self.save()

    def save(self) -> None:
        """Write the annotation files."""
        for split, content in self.content.items():
            file = self.folder / "annotations" / f"instances_{split}.json"
            file.write_text(content if isinstance(content, str) else json.dumps(content))

    def image(self, index: int = 0, split: str = "train") -> dict[str, Any]:
        """The record of an image."""
        record: dict[str, Any] = self.content[split]["images"][index]
        return record

    def box(self, index: int = 0, split: str = "train") -> dict[str, Any]:
        """An annotation."""
        row: dict[str, Any] = self.content[split]["annotations"][index]
        return row

    def path(self, index: int = 0, split: str = "train") -> Path:
        """The file of an image."""
        return self.folder / split / str(self.image(index, split)["file_name"])

    def open(self, index: int = 0, split: str = "train") -> Image.Image:
        """The pixels of an image."""
        with Image.open(self.path(index, split)) as image:
            image.load()
            return image

    def add_image(
        self, path: str, split: str = "train", width: int = WIDTH, height: int = HEIGHT
    ) -> None:
        """A record of another image, with a box."""
        number = 1000 + len(self.content[split]["images"])
        self.content[split]["images"].append(
            {"id": number, "file_name": path, "width": width, "height": height}
        )
        self.add_box(number, [10, 10, 30, 30], split)

    def add_box(
        self, image: int, bbox: list[float], split: str = "train", category: int = 1
    ) -> dict[str, Any]:
        """Another annotation."""
        row = {
            "id": 5000 + len(self.content[split]["annotations"]),
            "image_id": image,
            "category_id": category,
            "bbox": bbox,
            "area": bbox[2] * bbox[3],
            "iscrowd": 0,
        }
        self.content[split]["annotations"].append(row)
        return row


def picture(
    generator: np.random.Generator, width: int = WIDTH, height: int = HEIGHT
) -> Image.Image:
    """A picture like no other: soft patches of colour."""
    patches = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def boxes(generator: np.random.Generator, image: int) -> Iterator[dict[str, Any]]:
    """Boxes of an image, of sizes that anchors fit."""
    for category in range(1, BOXES + 1):
        width, height = (int(side) for side in generator.integers(24, 44, 2))
        x, y = (
            int(generator.integers(2, most)) for most in (WIDTH - width - 2, HEIGHT - height - 2)
        )
        yield {
            "id": 10 * image + category,
            "image_id": image,
            "category_id": category,
            "bbox": [x, y, width, height],
            "area": width * height,
            "iscrowd": 0,
        }
