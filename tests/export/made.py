# SPDX-License-Identifier: Apache-2.0
"""A tiny detector as a file of every form, made once for the tests of a module."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from effdet.data.shapes import draw
from effdet.export import ExportedNetwork, open_exported
from effdet.inference import Detector
from effdet.structures import Detections

SIZE = (64, 96)
FORMS = {
    "raw.onnx": {"format": "onnx"},
    "nms.onnx": {"format": "onnx", "detections": True},
    "raw.xml": {"format": "openvino"},
    "nms.xml": {"format": "openvino", "detections": True},
    "raw.pt2": {"format": "torch-export"},
}


@dataclasses.dataclass
class Made:
    folder: Path
    weights: Path
    onnx: Any  # the raw graph
    reports: dict[str, Any]

    def path(self, name: str) -> Path:
        return self.folder / name

    def network(self, name: str) -> ExportedNetwork:
        return open_exported(self.path(name), trust_code=True)


def copied(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: copy.deepcopy(function(*arguments))


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` called once for each last argument; its slowness is not what is tested."""
    results: dict[Any, Any] = {}

    def call(*arguments: Any) -> Any:
        if arguments[-1] not in results:
            results[arguments[-1]] = function(*arguments)
        return results[arguments[-1]]

    return call


def hard(detector: Detector, **settings: Any) -> list[Detections]:
    sources = [Image.fromarray(draw("val", i).pixels) for i in range(5)]
    return detector.predict(sources, batch_size=3, **settings)
