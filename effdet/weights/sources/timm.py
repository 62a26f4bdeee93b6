# SPDX-License-Identifier: Apache-2.0
"""EfficientNets of timm (huggingface/pytorch-image-models): ``.pth`` and safetensors.

``tf_efficientnet_*`` (weights from TensorFlow: SAME padding, epsilon 1e-3) and ``efficientnet_*``
(trained in PyTorch: symmetric padding, 1e-5) have the same tensors, so that a file may be either:
both are named, the former first, of which there are many more. Who knows the file's name or its
hash decides, and also sets the normalisation where it is not the usual: that of ``tf_*`` is
ImageNet's, of ``tf_*_ap`` (AdvProp) and Lite :data:`~effdet.config.HALF`.
"""

import re
from collections.abc import Iterator

from effdet.config import HALF, IMAGENET_MEAN, IMAGENET_STD, ClassifierConfig
from effdet.weights.source import Shapes
from effdet.weights.sources.pytorch import (
    PyTorchClassifier,
    expands,
    first_size,
    likely_backbones,
    places,
    split,
)

STEM = "conv_stem.weight"

_TOP = {
    "backbone.stem.conv": "conv_stem",
    "backbone.stem.bn": "bn1",
    "head.conv": "conv_head",
    "head.bn": "bn2",
    "classifier": "classifier",
}
_BLOCK = {
    "expand.conv": "conv_pw",
    "expand.bn": "bn1",
    "depthwise.conv": "conv_dw",
    "depthwise.bn": "bn2",
    "se.reduce": "se.conv_reduce",
    "se.expand": "se.conv_expand",
    "project.conv": "conv_pwl",
    "project.bn": "bn3",
}
# Batch norms are counted, and the only pointwise convolution needs no addition to its name.
_UNEXPANDED = _BLOCK | {"depthwise.bn": "bn1", "project.conv": "conv_pw", "project.bn": "bn2"}

# Blocks of EfficientNetV2, EdgeTPU and MixNet.
_OTHER_BLOCK = re.compile(r".*blocks\.\d+\.\d+\.(conv_exp|conv|conv_\w+\.\d+)\.weight")


def tensor_name(backbone: str, name: str) -> str:
    """The file's name of our tensor ``name`` of a backbone or classifier."""
    block, layer, leaf = split(name)
    if block is None:
        return f"{_TOP[layer]}.{leaf}"
    stage, index = places(backbone)[block]
    table = _BLOCK if expands(backbone, block) else _UNEXPANDED
    return f"blocks.{stage}.{index}.{table[layer]}.{leaf}"


def is_lite(shapes: Shapes) -> bool:
    """Whether the blocks have no squeeze-and-excitation."""
    return not any(".se.conv_reduce." in name for name in shapes)


def other_blocks(shapes: Shapes) -> str | None:
    """Why the blocks are not those of EfficientNet B0-B7 or Lite."""
    found = next((name for name in shapes if _OTHER_BLOCK.fullmatch(name)), None)
    if found is None:
        return None
    return f"{found} is of another kind of block than EfficientNet B0-B7 and Lite have"


class TimmClassifier(PyTorchClassifier):
    """Classifiers, with or without their head."""

    title = "timm"
    last = ("conv_head.", "bn2.")

    def recognises(self, shapes: Shapes) -> bool:
        """By the first convolution."""
        return STEM in shapes

    def other_model(self, shapes: Shapes) -> str | None:
        """EfficientNetV2, EdgeTPU and MixNet."""
        return other_blocks(shapes)

    def configs(self, shapes: Shapes) -> Iterator[ClassifierConfig]:
        """Each size as ``tf_efficientnet_*`` and as ``efficientnet_*``."""
        lite = is_lite(shapes)
        for name in likely_backbones(shapes, STEM, lite=lite):
            num_classes = first_size(shapes, "classifier.weight") or None
            yield ClassifierConfig(
                backbone=name,
                num_classes=num_classes,
                mean=HALF if lite else IMAGENET_MEAN,
                std=HALF if lite else IMAGENET_STD,
            )
            yield ClassifierConfig(
                backbone=name, num_classes=num_classes, padding="symmetric", bn_eps=1e-5
            )

    def names(self, config: ClassifierConfig, name: str) -> list[str]:
        """One name each."""
        return [tensor_name(config.backbone, name)]


TIMM = TimmClassifier()
