# SPDX-License-Identifier: Apache-2.0
"""EfficientDet: train, validate and use detectors on EfficientNet backbones.

detector = effdet.load("runs/mine/best.pt")
detections = detector.predict("a.jpg")
effdet.draw("a.jpg", detections, detector.class_map, "a_boxes.png")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effdet.config import MODELS, ModelConfig, model_config
    from effdet.inference import Detector, draw, load
    from effdet.models import EfficientDet, build_model
    from effdet.structures import ClassMap, Detections

__version__ = "0.1.0"

# Loaded on first use, so that `import effdet` is quick and needs nothing that is not asked for.
_HOMES = {
    "MODELS": "effdet.config",
    "ModelConfig": "effdet.config",
    "model_config": "effdet.config",
    "Detector": "effdet.inference",
    "draw": "effdet.inference",
    "load": "effdet.inference",
    "EfficientDet": "effdet.models",
    "build_model": "effdet.models",
    "ClassMap": "effdet.structures",
    "Detections": "effdet.structures",
}

__all__ = [
    "MODELS",
    "ClassMap",
    "Detections",
    "Detector",
    "EfficientDet",
    "ModelConfig",
    "__version__",
    "build_model",
    "draw",
    "load",
    "model_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'effdet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
