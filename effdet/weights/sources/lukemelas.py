# SPDX-License-Identifier: Apache-2.0
"""Classifiers of ``efficientnet-pytorch`` and ``efficientnet-lite-pytorch`` (``.pth``).

Weights from TensorFlow: SAME padding, epsilon 1e-3. The AdvProp variants have the same tensors;
only their images are normalised otherwise.
"""

from collections.abc import Iterator

from effdet.config import IMAGENET_MEAN, IMAGENET_STD, LITE_MEAN, LITE_STD, ClassifierConfig
from effdet.weights.source import Shapes
from effdet.weights.sources.pytorch import PyTorchClassifier, first_size, likely_backbones, split

STEM = "_conv_stem.weight"

_TOP = {
    "backbone.stem.conv": "_conv_stem",
    "backbone.stem.bn": "_bn0",
    "head.conv": "_conv_head",
    "head.bn": "_bn1",
    "classifier": "_fc",
}
BLOCK = {
    "expand.conv": "_expand_conv",
    "expand.bn": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.bn": "_bn1",
    "se.reduce": "_se_reduce",
    "se.expand": "_se_expand",
    "project.conv": "_project_conv",
    "project.bn": "_bn2",
}


def tensor_name(name: str) -> str:
    """The file's name of our tensor ``name`` of a backbone or classifier."""
    block, layer, leaf = split(name)
    if block is None:
        return f"{_TOP[layer]}.{leaf}"
    return f"_blocks.{block}.{BLOCK[layer]}.{leaf}"


class LukemelasClassifier(PyTorchClassifier):
    """Classifiers, with or without their head."""

    title = "efficientnet-pytorch"
    last = ("_conv_head.", "_bn1.")

    def recognises(self, shapes: Shapes) -> bool:
        """By the first convolution."""
        return STEM in shapes

    def configs(self, shapes: Shapes) -> Iterator[ClassifierConfig]:
        """B0-B7, or Lite where no block has squeeze-and-excitation."""
        lite = not any("._se_reduce." in name for name in shapes)
        for name in likely_backbones(shapes, STEM, lite=lite):
            yield ClassifierConfig(
                backbone=name,
                num_classes=first_size(shapes, "_fc.weight") or None,
                mean=LITE_MEAN if lite else IMAGENET_MEAN,
                std=LITE_STD if lite else IMAGENET_STD,
            )

    def names(self, config: ClassifierConfig, name: str) -> list[str]:
        """One name each."""
        return [tensor_name(name)]


LUKEMELAS = LukemelasClassifier()
