# SPDX-License-Identifier: Apache-2.0
"""Weights of NVIDIA's DeepLearningExamples for PyTorch: EfficientDet, its backbones, EfficientNet.

All have epsilon 1e-3 in every batch norm. The detectors are a fork of rwightman's on a backbone of
its own, which pads symmetrically in all of them; the rest of D4 has SAME padding and a bias in each
convolution before a batch norm. Squeeze-and-excitation is made of linear layers there.

The shipped recipe trains with a fused focal loss, for which it pads the class head to a multiple of
8 classes: 96 for COCO, the 90 real ones of each anchor first. A head with 96 outputs is taken for
that, and the rest is left out; any other number of outputs is taken as it is.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from effdet.config import BN_EPS, ClassifierConfig, ModelConfig
from effdet.weights.source import Shapes
from effdet.weights.sources import rwightman
from effdet.weights.sources.pytorch import (
    C,
    PyTorchClassifier,
    PyTorchDetector,
    PyTorchSource,
    first_size,
    likely_backbones,
    likely_models,
    outputs_per_anchor,
    places,
    split,
)

COCO_CLASSES, PADDED_CLASSES = 90, 96
PADDING_BIAS = -20.0
"""Logit of a class that is none; in export only."""

_DETECTOR_TOP = {
    "backbone.stem.conv": "input_conv.0",
    "backbone.stem.bn": "input_conv.1",
    "head.conv": "features_conv.0",
    "head.bn": "features_conv.1",
    "classifier": "fc",
}
_DETECTOR_BLOCK = {
    "expand.conv": "expand_conv.0",
    "expand.bn": "expand_conv.1",
    "depthwise.conv": "depthwise_conv.0",
    "depthwise.bn": "depthwise_conv.1",
    "se.reduce": "squeeze_and_excitation.squeeze",
    "se.expand": "squeeze_and_excitation.expand",
    "project.conv": "project_conv.0",
    "project.bn": "project_conv.1",
}
_CLASSIFIER_TOP = {
    "backbone.stem.conv": "stem.conv",
    "backbone.stem.bn": "stem.bn",
    "head.conv": "features.conv",
    "head.bn": "features.bn",
    "classifier": "classifier.fc",
}
_CLASSIFIER_BLOCK = {
    "expand.conv": "expand.conv",
    "expand.bn": "expand.bn",
    "depthwise.conv": "depsep.conv",
    "depthwise.bn": "depsep.bn",
    "se.reduce": "se.squeeze",
    "se.expand": "se.expand",
    "project.conv": "proj.conv",
    "project.bn": "proj.bn",
}


def backbone_name(name: str) -> str:
    """The name of our tensor ``name`` in the backbone of the detectors."""
    block, layer, leaf = split(name)
    if block is None:
        return f"{_DETECTOR_TOP[layer]}.{leaf}"
    return f"mbconv_blocks.{block}.{_DETECTOR_BLOCK[layer]}.{leaf}"


def _is_linear(name: str) -> bool:
    """Whether our tensor ``name`` is a 1x1 convolution that is a linear layer there."""
    return name.endswith((".se.reduce.weight", ".se.expand.weight"))


class _LinearSqueeze(PyTorchSource[C]):
    """Squeeze-and-excitation weights ``[out, in]`` for our ``[out, in, 1, 1]``."""

    def to_ours(self, config: C, name: str, values: list[Tensor]) -> Tensor:
        """Linear layers become 1x1 convolutions."""
        value = super().to_ours(config, name, values)
        return value[:, :, None, None] if _is_linear(name) else value

    def from_ours(self, config: C, name: str, value: Tensor) -> list[Tensor]:
        """1x1 convolutions become linear layers."""
        return super().from_ours(config, name, value.flatten(1) if _is_linear(name) else value)


class NvidiaDetector(_LinearSqueeze[ModelConfig], PyTorchDetector):
    """Detectors.

    Args:
        padded: with the class head of the fused focal loss: 96 outputs an anchor for 90 classes.
    """

    stem = "backbone.input_conv.0.weight"

    def __init__(self, *, padded: bool) -> None:
        self.padded = padded
        self.title = "NVIDIA EfficientDet"
        if padded:
            self.title += f" (first {COCO_CLASSES} of {PADDED_CLASSES} class outputs)"

    def recognises(self, shapes: Shapes) -> bool:
        """By the first convolution and the width of the class head."""
        return self.stem in shapes and self.padded == (_outputs(shapes) == PADDED_CLASSES)

    def other_model(self, shapes: Shapes) -> str | None:
        """Another pyramid than BiFPN."""
        return rwightman.other_detector(shapes)

    def configs(self, shapes: Shapes) -> Iterator[ModelConfig]:
        """By the widths of the first convolution and of the pyramid."""
        for row in likely_models(shapes, self.stem, rwightman.WIDTH, lite=False):
            config = dataclasses.replace(
                rwightman.as_in_file(row, shapes),
                backbone_padding="symmetric",
                backbone_bn_eps=BN_EPS,
            )
            classes = COCO_CLASSES if self.padded else config.num_classes
            yield dataclasses.replace(config, num_classes=classes)

    def names(self, config: ModelConfig, name: str) -> list[str]:
        """One name each."""
        if name.startswith("backbone."):
            return [f"backbone.{backbone_name(name)}"]
        return [rwightman.detector_name(config, name, level_first=False)]

    def to_ours(self, config: ModelConfig, name: str, values: list[Tensor]) -> Tensor:
        """Without the classes that are none."""
        value = super().to_ours(config, name, values)
        if not self._is_padded(name):
            return value
        by_anchor = value.unflatten(0, (-1, PADDED_CLASSES))
        return by_anchor[:, : config.num_classes].flatten(0, 1)

    def from_ours(self, config: ModelConfig, name: str, value: Tensor) -> list[Tensor]:
        """With classes that are never found."""
        if not self._is_padded(name):
            return super().from_ours(config, name, value)
        by_anchor = value.unflatten(0, (-1, config.num_classes))
        missing = PADDED_CLASSES - config.num_classes
        fill = PADDING_BIAS if name.endswith("bias") else 0.0
        padding = by_anchor.new_full((len(by_anchor), missing, *value.shape[1:]), fill)
        return [torch.cat([by_anchor, padding], 1).flatten(0, 1)]

    def is_extra(self, config: ModelConfig, name: str) -> bool:
        """The anchors that its training wrapper keeps."""
        return name == "anchors.boxes"

    def _is_padded(self, name: str) -> bool:
        return self.padded and name.startswith("class_head.predict.pointwise.")


def _outputs(shapes: Shapes) -> int:
    classes, boxes = (rwightman.PREDICT.format(head) for head in ("class", "box"))
    return outputs_per_anchor(shapes, classes, boxes)


class NvidiaBackbone(_LinearSqueeze[ClassifierConfig], PyTorchClassifier):
    """The classifiers that the detectors start from, with or without their head."""

    title = "NVIDIA EfficientDet's backbone"
    stem = "input_conv.0.weight"
    last = ("features_conv.",)

    def recognises(self, shapes: Shapes) -> bool:
        """By the first convolution."""
        return self.stem in shapes

    def configs(self, shapes: Shapes) -> Iterator[ClassifierConfig]:
        """By the width of the first convolution."""
        return _classifiers(shapes, self.stem, "fc.weight")

    def names(self, config: ClassifierConfig, name: str) -> list[str]:
        """One name each."""
        return [backbone_name(name)]


class NvidiaClassifier(PyTorchClassifier):
    """Classifiers whose squeeze-and-excitation is made of convolutions.

    Args:
        stage: the name of a stage: ``layers.0`` today, ``layer1`` in the published files.
    """

    title = "NVIDIA EfficientNet"
    stem = "stem.conv.weight"
    last = ("features.",)
    squeeze_rank = 4

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def recognises(self, shapes: Shapes) -> bool:
        """By the first convolution, a stage's name, and the shape of squeeze-and-excitation."""
        squeeze = shapes.get(f"{self._block_name(0, 0)}.se.squeeze.weight")
        return self.stem in shapes and squeeze is not None and len(squeeze) == self.squeeze_rank

    def other_model(self, shapes: Shapes) -> str | None:
        """WideSE, and models with fake quantisation."""
        name = f"{self._block_name(1, 0)}.se.squeeze.weight"
        squeezed, channels = (*shapes.get(name, ()), 0, 0)[:2]
        if squeezed and channels == 4 * squeezed:
            return f"{name} is a quarter of the widened channels: WideSE"
        quantised = next((name for name in shapes if "_quantizer." in name), None)
        return quantised and f"{quantised} is of a model with fake quantisation"

    def configs(self, shapes: Shapes) -> Iterator[ClassifierConfig]:
        """By the width of the first convolution."""
        return _classifiers(shapes, self.stem, "classifier.fc.weight")

    def names(self, config: ClassifierConfig, name: str) -> list[str]:
        """One name each."""
        block, layer, leaf = split(name)
        if block is None:
            return [f"{_CLASSIFIER_TOP[layer]}.{leaf}"]
        prefix = self._block_name(*places(config.backbone)[block])
        return [f"{prefix}.{_CLASSIFIER_BLOCK[layer]}.{leaf}"]

    def _block_name(self, stage: int, index: int) -> str:
        return f"{self._stage.format(stage, stage + 1)}.block{index}"


class NvidiaLinearClassifier(_LinearSqueeze[ClassifierConfig], NvidiaClassifier):
    """Classifiers whose squeeze-and-excitation is made of linear layers."""

    squeeze_rank = 2


def _classifiers(shapes: Shapes, stem: str, classifier: str) -> Iterator[ClassifierConfig]:
    for name in likely_backbones(shapes, stem, lite=False):
        num_classes = first_size(shapes, classifier) or None
        yield ClassifierConfig(backbone=name, num_classes=num_classes, padding="symmetric")


_STAGES = ("layers.{0}", "layer{1}")
NVIDIA: tuple[NvidiaDetector | NvidiaBackbone | NvidiaClassifier, ...] = (
    NvidiaDetector(padded=True),
    NvidiaDetector(padded=False),
    NvidiaBackbone(),
    *(NvidiaClassifier(stage) for stage in _STAGES),
    *(NvidiaLinearClassifier(stage) for stage in _STAGES),
)
