# SPDX-License-Identifier: Apache-2.0
"""A small COCO folder on disk, to be bent out of shape by the tests."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdet.data.coco import CocoDataset
from effdet.structures import ClassMap

Content = dict[str, Any]


def annotation(image_id: int, category_id: int, bbox: list[float], **more: Any) -> Content:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox} | more


@pytest.fixture
def content() -> Content:
    """Three images, the second without boxes; category ids 7 and 3, in this order."""
    return {
        "images": [
            {"id": 20, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 10, "file_name": "b.png", "width": 40, "height": 30},
            {"id": 30, "file_name": "c.png", "width": 16, "height": 48},
        ],
        "annotations": [
            annotation(30, 7, [1, 2, 3, 4]),
            annotation(20, 3, [10, 5, 20, 10], iscrowd=0),
            annotation(20, 7, [0, 0, 40, 30], iscrowd=1),
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., CocoDataset]:
    """Write ``content`` and plain gray images, and read them."""

    def _make(content: Content, class_map: ClassMap | None = None) -> CocoDataset:
        file = tmp_path / "instances_train.json"
        file.write_text(json.dumps(content))
        (tmp_path / "train").mkdir(exist_ok=True)
        for k, image in enumerate(content["images"]):
            gray = np.full((image["height"], image["width"]), 10 * (k + 1), np.uint8)
            Image.fromarray(gray).save(tmp_path / "train" / image["file_name"])
        return CocoDataset(file, tmp_path / "train", class_map)

    return _make


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[Any], str]:
    """The error message that reading ``content`` ends with."""
    from effdet.errors import DataError

    def _refused(content: Any) -> str:
        file = tmp_path / "bad.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(DataError) as caught:
            CocoDataset(file, tmp_path)
        message = str(caught.value)
        assert message.startswith(f"{file}: ")
        assert "\n" not in message
        return message.removeprefix(f"{file}: ")

    return _refused


@pytest.fixture
def test_data() -> Path:
    """The folder of real data sets, or a skip."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("EFFDET_TEST_DATA") or root.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: set EFFDET_TEST_DATA to a folder of data sets (not {folder})")
    return folder
