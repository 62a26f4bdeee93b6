# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
import torch

from effdet.anchors import build_anchors
from effdet.boxes import box_iou
from effdet.check.anchors import aspect_clusters, best_ious, suggest
from effdet.config import model_config


def random_boxes(count: int, side: float, seed: int = 0) -> np.ndarray:
    """``[count, 4]`` centre and size."""
    generator = np.random.default_rng(seed)
    size = np.exp(generator.uniform(np.log(3), np.log(side), (count, 2)))
    centre = generator.uniform(0, side, (count, 2))
    return np.concatenate([centre, size], axis=1)


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("efficientdet_d0", (256, 256)),
        ("efficientdet_lite0", (200, 328)),
        ("efficientdet_d7x", (256, 384)),
    ],
)
def test_the_best_iou_is_that_of_the_real_anchors(name: str, image_size: tuple[int, int]) -> None:
    config = dataclasses.replace(model_config(name), image_size=image_size)
    boxes = random_boxes(300, 256)
    corners = np.concatenate(
        [boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1
    )
    anchors = build_anchors(config)
    exact = box_iou(torch.from_numpy(corners), anchors.double()).max(1).values
    assert best_ious(boxes, config) == pytest.approx(exact.numpy(), abs=1e-5)


def test_clusters_of_ratios_are_found() -> None:
    generator = np.random.default_rng(0)
    logs = np.concatenate(
        [np.log(ratio) + generator.normal(0, 0.05, 200) for ratio in (0.25, 1.0, 3.0)]
    )
    found = np.exp(aspect_clusters(logs, 3))
    assert found == pytest.approx([0.25, 1, 3], rel=0.03)


def test_few_far_boxes_move_a_centre_little() -> None:
    logs = np.array([0.0] * 95 + [3.0] * 5)
    assert abs(aspect_clusters(logs, 1)[0]) < 0.05 < np.mean(logs)


def test_suggested_anchors_fit_better_and_are_as_many() -> None:
    config = model_config("efficientdet_d0")
    boxes = random_boxes(200, 300)
    boxes[:, 2:] = [120, 20]
    better = suggest(boxes, config)
    assert better is not None
    assert better.anchors_per_location == config.anchors_per_location
    assert best_ious(boxes, better).mean() > best_ious(boxes, config).mean() + 0.1
    # the widest stays where the widest was
    assert np.argmax(better.aspect_ratios) == np.argmax(config.aspect_ratios)


def test_nothing_is_suggested_where_nothing_is_better() -> None:
    config = model_config("efficientdet_d0")
    anchors = build_anchors(config).double().numpy()
    rows = np.random.default_rng(0).choice(len(anchors), 300, replace=False)
    x1, y1, x2, y2 = anchors[rows].T
    boxes = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
    assert best_ious(boxes, config) == pytest.approx(1, abs=1e-5)
    assert suggest(boxes, config) is None
