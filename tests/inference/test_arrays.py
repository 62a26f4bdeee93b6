# SPDX-License-Identifier: Apache-2.0
"""Detections as arrays for the package ``supervision``."""

import sys

import numpy as np
import pytest
import torch

from effdet.errors import UsageError
from effdet.structures import ClassMap, Detections

CLASS_MAP = ClassMap(("cat", None, "a dog"), (1, None, 3))
FOUND = Detections(
    boxes=torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]),
    scores=torch.tensor([0.9, 0.5]),
    labels=torch.tensor([2, 0]),
)


def test_the_arrays_have_supervisions_names_types_and_shapes() -> None:
    arrays = FOUND.to_arrays(CLASS_MAP)
    assert list(arrays) == ["xyxy", "confidence", "class_id", "data"]
    assert arrays["xyxy"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert arrays["confidence"].tolist() == pytest.approx([0.9, 0.5])
    assert arrays["class_id"].tolist() == [2, 0]
    assert arrays["data"]["class_name"].tolist() == ["a dog", "cat"]
    assert arrays["xyxy"].dtype == arrays["confidence"].dtype == np.float32
    assert arrays["class_id"].dtype == np.int64
    assert "data" not in FOUND.to_arrays()


def test_nothing_has_the_same_shapes() -> None:
    arrays = FOUND[:0].to_arrays(CLASS_MAP)
    assert arrays["xyxy"].shape == (0, 4)
    assert arrays["data"]["class_name"].shape == (0,)
    assert arrays["data"]["class_name"].dtype.kind == "U"


def test_supervision_takes_them() -> None:
    supervision = pytest.importorskip("supervision", reason="not among what tests need")
    found = FOUND.to_supervision(CLASS_MAP)
    assert isinstance(found, supervision.Detections)
    assert len(found) == 2
    assert found["class_name"].tolist() == ["a dog", "cat"]
    assert found[found.confidence > 0.6].xyxy.tolist() == [[1, 2, 3, 4]]
    assert len(FOUND[:0].to_supervision(CLASS_MAP)) == 0
    assert found == supervision.Detections(**FOUND.to_arrays(CLASS_MAP))


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match="pip install supervision; to_arrays gives the same"):
        FOUND.to_supervision()
