# SPDX-License-Identifier: Apache-2.0
"""A small annotation file to be bent out of shape."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effdet.annotations import AnnotationError, read_annotations

Content = dict[str, Any]


@pytest.fixture
def content() -> Content:
    """Two images, two categories, three annotations with and without what may be missing."""
    return {
        "info": {"year": 2026, "id": 7},
        "images": [
            {"id": 12, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 0, "file_name": "b/ü.jpg", "width": 16, "height": 48},
        ],
        "annotations": [
            {"id": 93, "image_id": 12, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12.5},
            {"id": 0, "image_id": 0, "category_id": 3, "bbox": [0.5, 5, 2, 1], "iscrowd": 1},
            {"image_id": 12, "category_id": 3, "bbox": [3, 2, 3, 4], "area": None, "iscrowd": 0},
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """What the error says that reading ``content`` (text, bytes, or to be written) ends with."""

    def _refused(content: Any, **options: Any) -> str:
        file = tmp_path / "bad.json"
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        file.write_bytes(content)
        with pytest.raises(AnnotationError) as caught:
            read_annotations(file, **options)
        message = str(caught.value)
        assert message.startswith(f"{file}: ")
        assert message.isprintable()
        return message.removeprefix(f"{file}: ")

    return _refused
