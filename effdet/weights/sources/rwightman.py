# SPDX-License-Identifier: Apache-2.0
"""Detectors of rwightman/efficientdet-pytorch (package ``effdet`` 0.x, ``.pth``).

A timm backbone, BiFPN and heads of its own. ``tf_efficientdet_*`` have SAME padding and a bias in
each convolution before a batch norm; ``efficientdet_d0`` to ``_d3`` have symmetric padding and no
such bias, which tells them apart. Two kinds of models cannot be told from others by their tensors;
no weights of them were published: ``efficientdet_d4`` and ``_d5``, whose backbone alone pads
symmetrically, are taken for ``tf_*``, and softmax fusion (``bifpn_attn``) for the fast normalised.

``tf_*_ap`` (AdvProp) and Lite see images from -1 to 1, which tensors tell of Lite alone. Anchors
of aspect ratio 2 are 1.4 x 0.7 of the square one's side there, ours 1.414 x 0.707.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from effdet.config import HALF, ModelConfig
from effdet.models.bifpn import bifpn_nodes
from effdet.weights.source import Shapes
from effdet.weights.sources import timm
from effdet.weights.sources.pytorch import (
    HEAD,
    NODE,
    PyTorchDetector,
    likely_models,
    outputs_per_anchor,
)

_SEPARABLE = {"depthwise": "conv_dw", "pointwise": "conv_pw"}
_PARTS = {
    "conv.depthwise": "after_combine.conv.conv_dw",
    "conv.pointwise": "after_combine.conv.conv_pw",
    "bn": "after_combine.conv.bn",
}
_FUSION = "fpn.cell.0.fnode.0.combine.edge_weights"
WIDTH = "fpn.cell.0.fnode.0.after_combine.conv.conv_pw.weight"
_BIAS = "fpn.cell.0.fnode.0.after_combine.conv.conv_pw.bias"
_PLAIN = "fpn.cell.0.fnode.0.after_combine.conv.conv.weight"
PREDICT = "{}_net.predict.conv_pw.weight"
_FIRST_NODES = re.compile(r"fpn\.cell\.0\.fnode\.(\d+)\.after_combine\..+")


def detector_name(config: ModelConfig, name: str, *, level_first: bool) -> str:
    """The file's name of our tensor ``name`` of BiFPN or heads."""
    if match := HEAD.fullmatch(name):
        return f"{match[1]}_net.{_head(match[2], level_first)}"
    module, leaf = name.rsplit(".", 1)
    if match := NODE.fullmatch(module):
        cell, node, rest = match.groups()
        return f"fpn.cell.{cell}.fnode.{node}.{_node(config, int(node), rest, leaf)}"
    _, _, index, kind = module.split(".")  # bifpn.extra_levels.INDEX.KIND
    return f"fpn.resample.{6 - config.min_level + int(index)}.conv.{kind}.{leaf}"


def _node(config: ModelConfig, node: int, rest: str, leaf: str) -> str:
    if rest == "fuse":
        return "combine.edge_weights"
    if rest in _PARTS:
        return f"{_PARTS[rest]}.{leaf}"
    _, position, kind = rest.split(".")  # resamples.POSITION.KIND
    offset = bifpn_nodes(config.min_level, config.max_level)[node].inputs[int(position)]
    return f"combine.resample.{offset}.conv.{kind}.{leaf}"


def _head(rest: str, level_first: bool) -> str:
    module, leaf = rest.rsplit(".", 1)
    part, *where = module.split(".")
    if part == "predict":
        return f"predict.{_SEPARABLE[where[0]]}.{leaf}"
    if part == "convs":
        return f"conv_rep.{where[0]}.{_SEPARABLE[where[1]]}.{leaf}"
    repeat, level = where
    return (
        f"bn_rep.{level}.{repeat}.{leaf}" if level_first else f"bn_rep.{repeat}.{level}.bn.{leaf}"
    )


def as_in_file(row: ModelConfig, shapes: Shapes) -> ModelConfig:
    """``row`` with the classes, the fusion and the padding that the file shows."""
    return dataclasses.replace(
        row,
        num_classes=outputs_per_anchor(shapes, PREDICT.format("class"), PREDICT.format("box")),
        fusion="fastattn" if _FUSION in shapes else "sum",
        padding="same" if _BIAS in shapes else "symmetric",
    )


def other_detector(shapes: Shapes) -> str | None:
    """Why pyramid and heads are not EfficientDet's."""
    if _PLAIN in shapes:
        return f"{_PLAIN} is a plain convolution where EfficientDet has separable ones"
    matches = (_FIRST_NODES.fullmatch(name) for name in shapes)
    have = len({match[1] for match in matches if match})
    want = 2 * (_num_levels(shapes) - 1)
    if have != want:
        return f"fpn.cell.0 has {have} nodes where a BiFPN has {want}: QuFPN, PAN or the like"
    return None


def is_level_first(names: Iterable[str]) -> bool:
    """Whether the heads' batch norms are counted by level, then by convolution."""
    return "class_net.bn_rep.0.0.weight" in names


def _num_levels(shapes: Shapes) -> int:
    pattern = r"class_net\.bn_rep\.(\d+)\.0\.weight"
    if not is_level_first(shapes):
        pattern = r"class_net\.bn_rep\.0\.(\d+)\.bn\.weight"
    return sum(re.fullmatch(pattern, name) is not None for name in shapes)


class RwightmanDetector(PyTorchDetector):
    """Detectors.

    Args:
        level_first: batch norms of the heads as ``bn_rep.LEVEL.REPEAT`` rather than
            ``bn_rep.REPEAT.LEVEL.bn``.
    """

    stem = "backbone." + timm.STEM

    def __init__(self, *, level_first: bool) -> None:
        self.level_first = level_first
        self.title = "rwightman/efficientdet-pytorch"

    def recognises(self, shapes: Shapes) -> bool:
        """By the heads, and by not being NVIDIA's."""
        heads = "class_net.conv_rep.0.conv_dw.weight", "class_net.conv_rep.0.conv.weight"
        nvidia = "backbone.input_conv.0.weight" in shapes
        return (
            any(name in shapes for name in heads)
            and not nvidia
            and self.level_first == is_level_first(shapes)
        )

    def other_model(self, shapes: Shapes) -> str | None:
        """Other backbones, other pyramids, and Lite as this package trains it itself."""
        if self.stem not in shapes:
            name = next((name for name in shapes if name.startswith("backbone.")), "nothing")
            return f"{name} is not of an EfficientNet, the only backbone of this toolkit"
        if other := timm.other_blocks(shapes) or other_detector(shapes):
            return other
        if timm.is_lite(shapes) and _BIAS not in shapes:
            return f"{_BIAS} is missing, which all Lite models of this toolkit have"
        return None

    def configs(self, shapes: Shapes) -> Iterator[ModelConfig]:
        """By the widths of the first convolution and of the pyramid."""
        lite = timm.is_lite(shapes)
        for row in likely_models(shapes, self.stem, WIDTH, lite=lite):
            config = as_in_file(row, shapes)
            yield dataclasses.replace(config, mean=HALF, std=HALF) if lite else config

    def names(self, config: ModelConfig, name: str) -> list[str]:
        """One name each."""
        if name.startswith("backbone."):
            return [f"backbone.{timm.tensor_name(config.backbone, name)}"]
        return [detector_name(config, name, level_first=self.level_first)]

    def is_extra(self, config: ModelConfig, name: str) -> bool:
        """The anchors that its training and prediction wrappers keep."""
        return name == "anchors.boxes"


RWIGHTMAN = (RwightmanDetector(level_first=False), RwightmanDetector(level_first=True))
