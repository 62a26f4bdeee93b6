# SPDX-License-Identifier: Apache-2.0
"""Small data sets and detections, written as rows of numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

from effdet.evaluation import GroundTruth, Results

CAT, DOG = 3, 7
CATEGORIES = [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}]


def truth(
    *rows: tuple[float, ...],
    images: int = 3,
    categories: Sequence[Mapping[str, object]] = CATEGORIES,
) -> GroundTruth:
    """Boxes as rows of (image, category, x, y, width, height[, iscrowd])."""
    return GroundTruth.load(
        {
            "images": [{"id": i} for i in range(images)],
            "annotations": [
                {
                    "id": number,
                    "image_id": int(image),
                    "category_id": int(category),
                    "bbox": list(box[:4]),
                    "iscrowd": int(box[4]) if len(box) > 4 else 0,
                }
                for number, (image, category, *box) in enumerate(rows)
            ],
            "categories": categories,
        }
    )


def results(*rows: tuple[float, ...]) -> Results:
    """Detections as rows of (image, category, x, y, width, height, score)."""
    values = np.array(rows, np.float64).reshape(-1, 7)
    whole = Results(
        image_ids=values[:, 0].astype(np.int64),
        category_ids=values[:, 1].astype(np.int64),
        boxes=values[:, 2:6],
        scores=values[:, 6],
    )
    return Results.join([whole])


def random_scene(seed: int, images: int = 12) -> tuple[GroundTruth, Results]:
    """Boxes, crowds among them, and detections near them, of classes and scores by chance."""
    generator = np.random.default_rng(seed)
    boxes: list[tuple[float, ...]] = []
    found: list[tuple[float, ...]] = []
    for image in range(images):
        for _ in range(int(generator.integers(0, 6))):
            corner, size = generator.uniform(0, 80, 2), generator.uniform(10, 150, 2)
            category = float(generator.choice([CAT, DOG]))
            boxes.append((image, category, *corner, *size, float(generator.random() < 0.1)))
            for _ in range(int(generator.integers(0, 4))):
                near = np.concatenate([corner, size]) * generator.uniform(0.75, 1.3, 4)
                seen = float(generator.choice([CAT, DOG])) if generator.random() < 0.3 else category
                found.append((image, seen, *near, round(float(generator.random()), 2)))
    return truth(*boxes, images=images), results(*found)
