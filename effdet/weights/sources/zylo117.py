# SPDX-License-Identifier: Apache-2.0
"""Detectors of zylo117/Yet-Another-EfficientDet-Pytorch, D0 to D7x (``.pth``).

SAME padding, epsilon 1e-3, the backbone of ``efficientnet-pytorch``, each convolution wrapped
(``.conv``). D6, D7 and D7x add their features plainly, but have weights for them all the same.

Where a max-pool needs padding, that program pads with zeros and ours with minus infinity, as
TensorFlow does, where these weights began. The program did so too for a day and found it slightly
better, then not certainly so (its pull requests 352 and 356). With minus infinity there as well the
outputs are the same; as it is they differ wherever all features of a window at the border are
negative.
"""

import dataclasses
import re
from collections.abc import Iterator

from effdet.config import ModelConfig
from effdet.models.bifpn import bifpn_nodes
from effdet.weights.source import Shapes
from effdet.weights.sources import lukemelas
from effdet.weights.sources.pytorch import (
    HEAD,
    NODE,
    PyTorchDetector,
    likely_models,
    outputs_per_anchor,
)

_STEM = "backbone_net.model._conv_stem.conv.weight"
_WIDTH = "bifpn.0.conv6_up.pointwise_conv.conv.weight"
_HEADER = "{}.header.pointwise_conv.conv.weight"
_HEADS = {"class": "classifier", "box": "regressor"}
_FUSION_WEIGHT = re.compile(r"bifpn\.\d+\.p\d_w[12]")
_RESAMPLE = {"conv": "0.conv", "bn": "1"}


class Zylo117Detector(PyTorchDetector):
    """Detectors."""

    title = "zylo117/Yet-Another-EfficientDet-Pytorch"

    def recognises(self, shapes: Shapes) -> bool:
        """By the first convolution."""
        return _STEM in shapes

    def configs(self, shapes: Shapes) -> Iterator[ModelConfig]:
        """By the widths of the first convolution and of the pyramid."""
        num_classes = outputs_per_anchor(
            shapes, _HEADER.format("classifier"), _HEADER.format("regressor")
        )
        for row in likely_models(shapes, _STEM, _WIDTH, lite=False):
            yield dataclasses.replace(row, num_classes=num_classes)

    def names(self, config: ModelConfig, name: str) -> list[str]:
        """One name each."""
        module, leaf = name.rsplit(".", 1)
        if name.startswith("backbone."):
            theirs, _ = lukemelas.tensor_name(name).rsplit(".", 1)
            is_norm = theirs.rsplit(".", 1)[-1].startswith("_bn")
            return [f"backbone_net.model.{theirs}{'' if is_norm else '.conv'}.{leaf}"]
        if match := HEAD.fullmatch(module):
            return [f"{_HEADS[match[1]]}.{_head(match[2])}.{leaf}"]
        if match := NODE.fullmatch(module):
            cell, node, rest = match.groups()
            theirs = _node(config, int(node), rest)
            return [f"bifpn.{cell}.{theirs}" + ("" if rest == "fuse" else f".{leaf}")]
        kind = module.rsplit(".", 1)[-1]  # bifpn.extra_levels.0.KIND
        return [f"bifpn.0.p5_to_p6.{_RESAMPLE[kind]}.{leaf}"]

    def is_extra(self, config: ModelConfig, name: str) -> bool:
        """The fusion weights of models that add plainly."""
        return config.fusion == "sum" and _FUSION_WEIGHT.fullmatch(name) is not None


def _node(config: ModelConfig, node: int, rest: str) -> str:
    """A layer of a BiFPN node: ``up`` on the way to the finest level, ``down`` on the way back."""
    level = bifpn_nodes(config.min_level, config.max_level)[node].level
    up = node < len(config.levels) - 1
    if rest == "fuse":
        return f"p{level}_w{1 if up else 2}"
    part, *where = rest.split(".")
    if part == "resamples":
        # Only the first input of a node can come from the backbone.
        return f"p{level}_down_channel{'' if up else '_2'}.{_RESAMPLE[where[1]]}"
    conv = f"conv{level}_{'up' if up else 'down'}"
    return f"{conv}.bn" if part == "bn" else f"{conv}.{where[0]}_conv.conv"


def _head(rest: str) -> str:
    part, *where = rest.split(".")
    if part == "predict":
        return f"header.{where[0]}_conv.conv"
    if part == "convs":
        return f"conv_list.{where[0]}.{where[1]}_conv.conv"
    repeat, level = where
    return f"bn_list.{level}.{repeat}"


ZYLO117 = Zylo117Detector()
