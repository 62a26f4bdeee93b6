# SPDX-License-Identifier: Apache-2.0
"""The data sets of EFFDET_TEST_DATA, read by us and by pycocotools."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from effdet.config import IMAGENET_MEAN, IMAGENET_STD
from effdet.data import CocoDataset, locate_split, read_split
from effdet.data.loader import build_eval_loader
from effdet.data.transforms import EvalTransform

SETS = [
    ("coco_mini", "train"),
    ("coco_mini", "val"),
    *[("bccd", s) for s in ("train", "val", "test")],
]


@pytest.fixture(params=SETS, ids="-".join)
def coco(request: pytest.FixtureRequest, test_data: Path) -> CocoDataset:
    name, split = request.param
    if not (test_data / name).is_dir():
        pytest.skip(f"{test_data} holds no {name}")
    files = locate_split(test_data / name, split)
    return CocoDataset(read_split(files), files.images)


def test_boxes_and_classes_are_those_of_pycocotools(coco: CocoDataset) -> None:
    tools = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        api = tools.COCO(str(coco.annotations))
    assert coco.image_ids.tolist() == [image["id"] for image in api.dataset["images"]]
    assert list(coco.class_map.category_ids) == sorted(api.getCatIds())
    assert coco.report.boxes == len(api.anns)
    assert coco.report.crowd_boxes == sum(row["iscrowd"] for row in api.anns.values())
    for index, image_id in enumerate(coco.image_ids.tolist()):
        target, rows = coco.target(index), api.imgToAnns[image_id]
        ids = [coco.class_map.category_ids[label] for label in target.labels]
        assert ids == [row["category_id"] for row in rows]
        xywh = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        ours = target.boxes.numpy().copy()
        ours[:, 2:] -= ours[:, :2]
        np.testing.assert_allclose(ours, xywh, atol=0.02)


def test_every_image_can_be_decoded_and_batched(coco: CocoDataset) -> None:
    transform = EvalTransform((128, 128), IMAGENET_MEAN, IMAGENET_STD)
    loader = build_eval_loader(coco, transform, batch_size=16, num_workers=2)
    seen = []
    for batch in loader:
        assert batch.images.isfinite().all()
        assert batch.images.abs().max() < 3
        seen += [target.image_id for target in batch.targets]
    assert seen == coco.image_ids.tolist()
