# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effdet.annotations import read_annotations
from effdet.data import CocoDataset
from effdet.keepsakes.labels import ASPECTS, GRID, MOST_IN_AN_IMAGE, SIDES, label_statistics


def dataset(folder: Path, boxes: list[tuple[Any, ...]], images: int = 3) -> CocoDataset:
    """Boxes as (image, category, x, y, width, height[, crowd]) in images of 100 x 200."""
    for number in range(images):
        Image.new("RGB", (200, 100)).save(folder / f"{number}.png")
    rows = [
        {
            "id": n,
            "image_id": b[0],
            "category_id": b[1],
            "bbox": list(b[2:6]),
            "iscrowd": len(b) > 6,
        }
        for n, b in enumerate(boxes)
    ]
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": 100, "width": 200} for n in range(images)
        ],
        "annotations": rows,
        "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    return CocoDataset(read_annotations(content), folder)


def test_boxes_are_counted_by_class_side_aspect_image_and_place(tmp_path: Path) -> None:
    found = label_statistics(
        dataset(
            tmp_path,
            [
                (0, 5, 0, 0, 20, 10),  # side 14.1, twice as wide as high, centre (0.05, 0.05)
                (0, 5, 0, 0, 10, 10),
                (0, 9, 100, 50, 100, 50),  # side 70.7, centre (0.75, 0.75)
                (1, 5, 90, 0, 20, 80, "crowd"),
            ],
        ),
        (100, 200),
    )
    assert (found["images"], found["boxes"], found["crowds"]) == (3, 3, 1)
    assert found["classes"] == [
        {"name": "cat", "boxes": 2, "images": 1},
        {"name": "dog", "boxes": 1, "images": 1},
    ]
    sides = dict(zip(found["input_sides"]["edges"], found["input_sides"]["counts"]))
    assert {edge: n for edge, n in sides.items() if n} == {8.0: 1, 11.314: 1, 64.0: 1}
    aspects = dict(zip(found["aspects"]["edges"], found["aspects"]["counts"]))
    assert {edge: n for edge, n in aspects.items() if n} == {1.0: 1, 2.0: 2}
    assert found["per_image"] == [2, 0, 0, 1] + [0] * (MOST_IN_AN_IMAGE - 3)
    centres = np.array(found["centres"])
    assert centres.shape == (GRID, GRID)
    assert centres[0, 0] == 2
    assert centres[12, 12] == 1


def test_sides_are_those_at_the_input_of_the_network(tmp_path: Path) -> None:
    """Images of 100 x 200 fit 64 x 64 at 0.32: a box of 100 x 100 has a side of 32 there."""
    found = label_statistics(dataset(tmp_path, [(0, 5, 0, 0, 100, 100)]), (64, 64))
    sides = dict(zip(found["input_sides"]["edges"], found["input_sides"]["counts"]))
    assert {edge: n for edge, n in sides.items() if n} == {32.0: 1}
    assert found["input_size"] == [64, 64]


def test_what_is_beyond_the_edges_counts_in_the_outermost_columns(tmp_path: Path) -> None:
    boxes = [(0, 5, 0, 0, 200, 1), (0, 5, 0, 0, 1, 100)]
    found = label_statistics(dataset(tmp_path, boxes), (100, 200))
    assert found["aspects"]["counts"][0] == found["aspects"]["counts"][-1] == 1
    assert sum(found["input_sides"]["counts"]) == 2
    assert len(found["input_sides"]["edges"]) == len(SIDES)
    assert len(found["aspects"]["counts"]) == len(ASPECTS) - 1


def test_a_set_without_boxes_has_counts_of_nothing(tmp_path: Path) -> None:
    found = label_statistics(dataset(tmp_path, []), (64, 64))
    assert found["per_image"][0] == 3
    assert found["boxes"] == sum(found["input_sides"]["counts"]) == 0
