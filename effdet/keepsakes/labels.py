# SPDX-License-Identifier: Apache-2.0
"""What the boxes of a split are like: how many, how large, what shape, where."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data import CocoDataset

SIDES = (0.0, *(round(2.0 ** (power / 2), 3) for power in range(3, 27)))
"""Edges of the columns of box sides, in input pixels; a side is the root of the area."""

ASPECTS = tuple(round(2.0 ** (power / 2), 3) for power in range(-6, 7))
"""Edges of the columns of width / height; what is beyond counts in the outermost."""

GRID = 16
"""Cells along each side of the picture of box centres."""

MOST_IN_AN_IMAGE = 20
"""Images with more boxes count together."""


def label_statistics(dataset: CocoDataset, input_size: tuple[int, int]) -> dict[str, Any]:
    """Plain values about the boxes of ``dataset``, those of crowd regions left out but counted.

    Args:
        dataset: a split.
        input_size: (height, width) that the images are made to fit for the network.

    Returns:
        ``images``, ``boxes``, ``crowds``; ``classes``: name, boxes and images of each;
        ``input_size``; and counts by columns: ``input_sides``, in pixels of the network's input,
        and ``aspects``, with their edges, ``per_image`` (images with 0, 1, 2, ... boxes, the last
        also for more) and ``centres`` (:data:`GRID` rows).
    """
    columns = dataset.columns()
    keep = ~columns.crowd.numpy()
    boxes = columns.boxes.numpy().astype(np.float64)[keep]
    labels, image = columns.labels.numpy()[keep], columns.image_index[keep]
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    fits = (np.array(input_size) / columns.sizes[image]).min(axis=1)  # [N] input / stored pixels
    num_classes = len(dataset.class_map)
    pairs = np.unique(image * num_classes + labels)
    in_images = np.bincount(pairs % num_classes, minlength=num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    per_image = np.bincount(image, minlength=len(dataset)).clip(max=MOST_IN_AN_IMAGE)
    return {
        "images": len(dataset),
        "boxes": len(boxes),
        "crowds": int((~keep).sum()),
        "classes": [
            {
                "name": dataset.class_map.name(index),
                "boxes": int(counts[index]),
                "images": int(in_images[index]),
            }
            for index in dataset.class_map.named
        ],
        "input_size": list(input_size),
        "input_sides": _columns(np.sqrt(width * height) * fits, SIDES),
        "aspects": _columns(width / height.clip(min=1e-6), ASPECTS),
        "per_image": np.bincount(per_image, minlength=MOST_IN_AN_IMAGE + 1).tolist(),
        "centres": _centres(boxes, columns.sizes[image]),
    }


def _columns(values: NDArray[np.float64], edges: tuple[float, ...]) -> dict[str, list[float]]:
    """How many values lie between each pair of edges; what is beyond counts in the outermost."""
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    return {"edges": list(edges), "counts": counts.tolist()}


def _centres(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> list[list[int]]:
    """How many box centres lie in each cell of a grid over the image.

    Args:
        boxes: ``[N, 4]`` xyxy.
        sizes: ``[N, 2]`` (height, width) of their images.
    """
    x = (boxes[:, 0] + boxes[:, 2]) / 2 / sizes[:, 1]
    y = (boxes[:, 1] + boxes[:, 3]) / 2 / sizes[:, 0]
    edges = np.linspace(0, 1, GRID + 1)
    counts, _, _ = np.histogram2d(y.clip(0, 1), x.clip(0, 1), bins=(edges, edges))
    return [[int(count) for count in row] for row in counts]
