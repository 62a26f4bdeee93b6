# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from effdet.errors import EffdetError, ExportError, UsageError
from effdet.settings import BenchmarkConfig, ExportConfig


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"nms": "gaussian", "detections": True}, ExportError, "ONNX knows hard NMS only"),
        ({"iou_threshold": 0.4}, UsageError, "--iou-threshold does nothing without --detections"),
        ({"format": "aoti", "detections": True}, UsageError, "only onnx and openvino"),
        ({"format": "torch-export", "opset": 20}, UsageError, "--opset does nothing with"),
        ({"batch": 0}, UsageError, r"batch must be dynamic or in \[1, 4096\], got 0"),
        ({"opset": 11}, UsageError, "opset must be in"),
        ({"check_count": 0}, UsageError, "check_count must be above 0"),
        ({"box_tolerance": 0.0}, UsageError, "box_tolerance must be above 0"),
        ({"detections": True, "max_candidates": 0}, UsageError, "max_candidates must be at least"),
        (
            {"detections": True, "class_agnostic": True, "max_per_class": 3},
            UsageError,
            "--max-per-class does nothing with --class-agnostic",
        ),
    ],
)
def test_export_refuses_what_cannot_work(
    changes: dict[str, Any], kind: type[EffdetError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        ExportConfig(weights="a.pt", **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"data": "a", "images": "b"}, "--data or --images"),
        ({"split": "test"}, "--split does nothing without --data"),
        ({"batch_size": (1, 0)}, "batch_size must be at least 1"),
        ({"threads": 0}, "threads must be in"),
        ({"rounds": 0}, "rounds must be above 0"),
    ],
)
def test_benchmark_refuses_what_cannot_work(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        BenchmarkConfig(weights=("a.pt",), **changes)
