# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of google/automl's EfficientDet and google's EfficientNet variables.

They are those of TensorFlow checkpoints by name, of Keras ``.h5`` files, and of the classifiers of
tensorflow/tpu: EfficientNet V1 and Lite. EfficientNetV2 (``efficientnetv2-s/blocks_0/...``), whose
fused blocks count their layers in another way, and WideSE belong into classes beside
:class:`AutomlClassifier`, with a ``_backbone`` of their own, once the models have them.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from effdet.config import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LITE_MEAN,
    LITE_STD,
    MODELS,
    BackboneConfig,
    ClassifierConfig,
    ModelConfig,
)
from effdet.models.bifpn import bifpn_nodes
from effdet.models.efficientnet import scaled_stages
from effdet.weights.source import Config, Shapes
from effdet.weights.translate import COUNTER

BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
CLASS_BIAS = "class_head.predict.pointwise.bias"
_MBCONV = re.compile(r"blocks\.(\d+)\.(expand|depthwise|se|project)\.(\w+)\.(\w+)")
HEAD = re.compile(r"(class|box)_head\.(convs|bns|predict)\.(.+)")
NODE = re.compile(r"cells\.(\d+)\.nodes\.(\d+)\.(\w+)\.(.+)")
_STEM = re.compile(r"(efficientnet-\w+)/stem/conv2d/kernel")
_EXTRA = re.compile(
    r"global_step|(?:.+/)?(?:beta[12]_power|moving_normalizer|(?:Momentum|RMSProp|Adam)(?:_\d+)?)"
)


class _Automl:
    """What detectors and classifiers have in common."""

    def other_model(self, shapes: Shapes) -> str | None:
        """None: this program's other models have other names."""
        return None

    def to_ours(self, config: Config, name: str, values: list[Tensor]) -> Tensor:
        """Our tensor ``name`` from its variables' values in TensorFlow's layout.

        Convolution kernels become ``[out, in / groups, h, w]``; the box head's channels go from
        (ty, tx, th, tw) to (tx, ty, tw, th).
        """
        if name.endswith("fuse.weight"):
            return torch.stack([value.reshape(()) for value in values])
        (value,) = values
        if value.dim() == 4:
            depthwise = "depthwise" in name
            value = value.permute(2, 3, 0, 1) if depthwise else value.permute(3, 2, 0, 1)
        elif value.dim() == 2:
            value = value.T
        return _swapped(name, value).contiguous()

    def from_ours(self, config: Config, name: str, value: Tensor) -> list[Tensor]:
        """The inverse of :meth:`to_ours`."""
        if name.endswith("fuse.weight"):
            return list(value.unbind())
        value = _swapped(name, value)
        if value.dim() == 4:
            depthwise = "depthwise" in name
            value = value.permute(2, 3, 0, 1) if depthwise else value.permute(2, 3, 1, 0)
        elif value.dim() == 2:
            value = value.T
        return [value.contiguous()]

    def is_extra(self, config: Config, name: str) -> bool:
        """Step counters and what optimizers keep."""
        return _EXTRA.fullmatch(name) is not None


class AutomlDetector(_Automl):
    """EfficientDet in TensorFlow checkpoints by name, and in Keras files."""

    title = "google/automl EfficientDet"

    def recognises(self, shapes: Shapes) -> bool:
        """By the BiFPN."""
        return any(name.startswith("fpn_cells/cell_0/") for name in shapes)

    def configs(self, shapes: Shapes) -> Iterable[ModelConfig]:
        """Models of the backbone that the names begin with, all where that is no known one."""
        parts = {name.split("/", 1)[0] for name in shapes}
        rows = [row for row in MODELS.values() if _scope(row.backbone) in parts]
        return self.with_classes(rows or MODELS.values(), shapes)

    def names(self, config: ModelConfig, name: str) -> list[str]:
        """One variable, or one an input for fusion weights."""
        if name.endswith(COUNTER):
            return []
        part, rest = name.split(".", 1)
        if part == "backbone":
            return [_of_backbone(config.backbone, rest)]
        if part == "bifpn":
            return _bifpn(config, rest)
        return [_head(config, name)]

    def with_classes(self, rows: Iterable[ModelConfig], shapes: Shapes) -> Iterable[ModelConfig]:
        """``rows`` with as many classes as the class head's bias has outputs an anchor."""
        for row in rows:
            outputs = shapes.get(self.names(row, CLASS_BIAS)[0])
            classes = outputs[0] // row.anchors_per_location if outputs else row.num_classes
            yield dataclasses.replace(row, num_classes=max(1, classes))


class AutomlClassifier(_Automl):
    """EfficientNet V1 and Lite in TensorFlow checkpoints.

    Args:
        dense: scope of the last layer; TensorFlow numbers it where a graph was built twice.
    """

    title = "google EfficientNet"

    def __init__(self, dense: str = "head/dense") -> None:
        self._dense = dense

    def recognises(self, shapes: Shapes) -> bool:
        """By stem and last layer; a backbone without its head is that of the usual scope."""
        scopes = [found[1] for name in shapes if (found := _STEM.fullmatch(name))]
        if not scopes or any(name.startswith("fpn_cells/") for name in shapes):
            return False
        has_dense = any("/dense/" in name for name in shapes)
        return any(f"{scope}/{self._dense}/kernel" in shapes for scope in scopes) or (
            not has_dense and self._dense == "head/dense"
        )

    def configs(self, shapes: Shapes) -> Iterable[ClassifierConfig]:
        """The backbones that the names begin with; without outputs where there is no last layer."""
        for backbone, row in BACKBONES.items():
            scope = _scope(backbone)
            if f"{scope}/stem/conv2d/kernel" in shapes:
                outputs = shapes.get(f"{scope}/{self._dense}/bias")
                yield ClassifierConfig(
                    backbone=backbone,
                    num_classes=outputs[0] if outputs else None,
                    mean=LITE_MEAN if row.lite else IMAGENET_MEAN,
                    std=LITE_STD if row.lite else IMAGENET_STD,
                )

    def names(self, config: ClassifierConfig, name: str) -> list[str]:
        """One variable."""
        if name.endswith(COUNTER):
            return []
        part, rest = name.split(".", 1)
        if part == "backbone":
            return [_of_backbone(config.backbone, rest)]
        tail = (
            f"head/{_conv_or_norm(rest)}"
            if part == "head"
            else f"{self._dense}/{kernel_leaf(rest)}"
        )
        return [f"{_scope(config.backbone)}/{tail}"]


DETECTOR = AutomlDetector()
CLASSIFIER = AutomlClassifier()
CLASSIFIER_BUILT_TWICE = AutomlClassifier("head_1/dense")


def _swapped(name: str, value: Tensor) -> Tensor:
    """The box head's channels with x and y the other way round."""
    if not name.startswith("box_head.predict.pointwise"):
        return value
    return value.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def _scope(backbone: str) -> str:
    return backbone.replace("_", "-")


def _of_backbone(backbone: str, name: str) -> str:
    return f"{_scope(backbone)}/{_backbone(name, _num_unexpanded(BACKBONES[backbone]))}"


@functools.cache
def _num_unexpanded(backbone: BackboneConfig) -> int:
    return scaled_stages(backbone)[0].repeats


def _backbone(name: str, unexpanded: int) -> str:
    if name.startswith("stem."):
        return f"stem/{_conv_or_norm(name.removeprefix('stem.'))}"
    match = _MBCONV.fullmatch(name)
    assert match is not None, name
    index, part, layer, leaf = match.groups()
    prefix = f"blocks_{index}"
    if part == "se":
        return f"{prefix}/se/conv2d{counted(int(layer == 'expand'))}/{kernel_leaf(leaf)}"
    # Layers are counted by kind in order of use; the first ``unexpanded`` blocks have no expansion.
    shift = int(int(index) < unexpanded)
    if layer == "bn":
        count = ["expand", "depthwise", "project"].index(part) - shift
        return f"{prefix}/{_conv_or_norm(f'bn.{leaf}', count)}"
    if part == "depthwise":
        return f"{prefix}/depthwise_conv2d/depthwise_kernel"
    count = 1 - shift if part == "project" else 0
    return f"{prefix}/{_conv_or_norm('conv.weight', count)}"


def _conv_or_norm(name: str, count: int = 0) -> str:
    layer, leaf = name.split(".")
    if layer == "bn":
        return f"tpu_batch_normalization{counted(count)}/{BATCH_NORM[leaf]}"
    return f"conv2d{counted(count)}/{kernel_leaf(leaf)}"


def _bifpn(config: ModelConfig, name: str) -> list[str]:
    if name.startswith("extra_levels."):
        _, index, rest = name.split(".", 2)
        return [f"resample_p{6 + int(index)}/{resample_leaf(rest)}"]
    match = NODE.fullmatch(name)
    assert match is not None, name
    cell, node, part, rest = match.groups()
    inputs = bifpn_nodes(config.min_level, config.max_level)[int(node)].inputs
    number = len(config.levels) + int(node)
    prefix = f"fpn_cells/cell_{cell}/fnode{node}"
    if part == "fuse":
        return [f"{prefix}/WSM{counted(i)}" for i in range(len(inputs))]
    if part == "resamples":
        position, rest = rest.split(".", 1)
        offset = inputs[int(position)]
        return [f"{prefix}/resample_{position}_{offset}_{number}/{resample_leaf(rest)}"]
    tail = f"bn/{BATCH_NORM[rest]}" if part == "bn" else f"conv/{separable_leaf(rest)}"
    return [f"{prefix}/op_after_combine{number}/{tail}"]


def _head(config: ModelConfig, name: str) -> str:
    match = HEAD.fullmatch(name)
    assert match is not None, name
    kind, part, rest = match.groups()
    if part == "predict":
        return f"{kind}_net/{kind}-predict/{separable_leaf(rest)}"
    if part == "convs":
        repeat, rest = rest.split(".", 1)
        return f"{kind}_net/{kind}-{repeat}/{separable_leaf(rest)}"
    repeat, level, leaf = rest.split(".")
    return f"{kind}_net/{kind}-{repeat}-bn-{config.min_level + int(level)}/{BATCH_NORM[leaf]}"


def resample_leaf(name: str) -> str:
    """A tensor of a resampling's convolution or batch norm."""
    layer, leaf = name.split(".")
    return f"bn/{BATCH_NORM[leaf]}" if layer == "bn" else f"conv2d/{kernel_leaf(leaf)}"


def separable_leaf(name: str) -> str:
    """A tensor of a separable convolution, which has one bias."""
    layer, leaf = name.split(".")
    return "bias" if leaf == "bias" else f"{layer}_kernel"


def kernel_leaf(leaf: str) -> str:
    """``kernel`` or ``bias``."""
    return "kernel" if leaf == "weight" else leaf


def counted(count: int) -> str:
    """What TensorFlow appends to the name of the ``count``-th layer or variable of a kind."""
    return f"_{count}" if count else ""
