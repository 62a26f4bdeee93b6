# SPDX-License-Identifier: Apache-2.0
"""``efficientnet_b0`` to ``efficientnet_b7`` of torchvision (``.pth``).

Symmetric padding; the batch norms of B5-B7, whose weights came from TensorFlow, have epsilon 1e-3,
the others 1e-5.
"""

from collections.abc import Iterator

from effdet.config import ClassifierConfig
from effdet.weights.source import Shapes
from effdet.weights.sources.pytorch import (
    PyTorchClassifier,
    expands,
    first_size,
    likely_backbones,
    places,
    split,
)

STEM = "features.0.0.weight"
# The first convolution of the first block: depthwise in EfficientNet, plain in EfficientNetV2.
_FIRST = "features.1.0.block.0.0.weight"

_TOP = {
    "backbone.stem.conv": "features.0.0",
    "backbone.stem.bn": "features.0.1",
    "head.conv": "features.8.0",
    "head.bn": "features.8.1",
    "classifier": "classifier.1",
}
_PARTS = ("expand", "depthwise", "se", "project")
_LAYERS = {"conv": "0", "bn": "1", "reduce": "fc1", "expand": "fc2"}


def tensor_name(backbone: str, name: str) -> str:
    """The file's name of our tensor ``name``."""
    block, layer, leaf = split(name)
    if block is None:
        return f"{_TOP[layer]}.{leaf}"
    stage, index = places(backbone)[block]
    part, kind = layer.split(".")
    position = _PARTS.index(part) - (not expands(backbone, block))
    return f"features.{stage + 1}.{index}.block.{position}.{_LAYERS[kind]}.{leaf}"


class TorchvisionClassifier(PyTorchClassifier):
    """Classifiers."""

    title = "torchvision"
    last = ("features.8.",)

    def recognises(self, shapes: Shapes) -> bool:
        """By the first convolutions."""
        return STEM in shapes and _FIRST in shapes

    def other_model(self, shapes: Shapes) -> str | None:
        """EfficientNetV2."""
        if shapes[_FIRST][1:2] != (1,):
            return f"{_FIRST} is no depthwise convolution: EfficientNetV2, not B0-B7"
        return None

    def configs(self, shapes: Shapes) -> Iterator[ClassifierConfig]:
        """By the width of the first convolution."""
        for name in likely_backbones(shapes, STEM, lite=False):
            yield ClassifierConfig(
                backbone=name,
                num_classes=first_size(shapes, "classifier.1.weight") or None,
                padding="symmetric",
                bn_eps=1e-3 if name[-2:] in ("b5", "b6", "b7") else 1e-5,
            )

    def names(self, config: ClassifierConfig, name: str) -> list[str]:
        """One name each."""
        return [tensor_name(config.backbone, name)]


TORCHVISION = TorchvisionClassifier()
