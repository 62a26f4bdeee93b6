# SPDX-License-Identifier: Apache-2.0
"""Names in google/automl's TF2 checkpoints: paths through its objects.

They end with ``/.ATTRIBUTES/VARIABLE_VALUE``. A detector trained from a TF Hub module keeps that
module's variables under their escaped names in ``base_model`` and has its last layers beside it.
The layouts are those of ``automl.py``.
"""

import re
from collections.abc import Iterable

from effdet.config import BACKBONES, MODELS, ModelConfig
from effdet.models.bifpn import bifpn_nodes
from effdet.models.efficientnet import scaled_stages
from effdet.weights.source import Config, Shapes
from effdet.weights.sources.automl import (
    BATCH_NORM,
    DETECTOR,
    HEAD,
    NODE,
    AutomlDetector,
    counted,
    kernel_leaf,
    resample_leaf,
    separable_leaf,
)
from effdet.weights.translate import COUNTER

_END = "/.ATTRIBUTES/VARIABLE_VALUE"
_MBCONV = re.compile(r"blocks\.(\d+)\.(\w+)\.(\w+)\.(\w+)")
_NORMS = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
_LAST = {"class": "classes", "box": "boxes"}
_EXTRA = re.compile(r"(?:optimizer|keras_api|save_counter)/.+|.+/\.OPTIMIZER_SLOT/.+")


class AutomlObjects(AutomlDetector):
    """EfficientDet as the TF2 code saves it."""

    title = "google/automl EfficientDet (TF2)"

    def recognises(self, shapes: Shapes) -> bool:
        """By the BiFPN."""
        return any(name.startswith("fpn_cells/cells/0/") for name in shapes)

    def configs(self, shapes: Shapes) -> Iterable[ModelConfig]:
        """Models with as many blocks and with squeeze and excitation or not, else all."""
        blocks = {name.split("/")[2] for name in shapes if name.startswith("backbone/_blocks/")}
        lite = not any("/_se/" in name for name in shapes)
        rows = [
            row
            for row in MODELS.values()
            if row.lite == lite and _num_blocks(row.backbone) == len(blocks)
        ]
        return self.with_classes(rows or MODELS.values(), shapes)

    def names(self, config: ModelConfig, name: str) -> list[str]:
        """One variable, or one an input for fusion weights."""
        if name.endswith(COUNTER):
            return []
        part, rest = name.split(".", 1)
        if part == "backbone":
            paths = [f"backbone/{_backbone(rest)}"]
        elif part == "bifpn":
            paths = _bifpn(config, rest)
        else:
            paths = [_head(name)]
        return [f"{path}{_END}" for path in paths]

    def is_extra(self, config: Config, name: str) -> bool:
        """The optimizer's variables and slots, counters and metrics."""
        return _EXTRA.fullmatch(name) is not None


class AutomlHub(AutomlObjects):
    """EfficientDet trained from a TF Hub module."""

    title = "google/automl EfficientDet (TF2, from TF Hub)"

    def recognises(self, shapes: Shapes) -> bool:
        """By the module's variables."""
        return any(name.startswith("base_model/") for name in shapes)

    def configs(self, shapes: Shapes) -> Iterable[ModelConfig]:
        """Models of the backbone that the module's names begin with, else all."""
        named = {
            name.removeprefix("base_model/").replace(".S", "/"): shape
            for name, shape in shapes.items()
        }
        return self.with_classes(DETECTOR.configs(named), shapes)

    def names(self, config: ModelConfig, name: str) -> list[str]:
        """One variable, or one an input for fusion weights."""
        if found := HEAD.fullmatch(name):
            kind, part, rest = found.groups()
            if part == "predict":
                return [f"{_LAST[kind]}/{separable_leaf(rest)}{_END}"]
        variables = DETECTOR.names(config, name)
        return [f"base_model/{v.replace('/', '.S')}:0{_END}" for v in variables]


OBJECTS = AutomlObjects()
HUB = AutomlHub()


def _num_blocks(backbone: str) -> int:
    return sum(stage.repeats for stage in scaled_stages(BACKBONES[backbone]))


def _backbone(name: str) -> str:
    if name.startswith("stem."):
        layer, leaf = name.removeprefix("stem.").split(".")
        return f"_stem/_bn/{BATCH_NORM[leaf]}" if layer == "bn" else "_stem/_conv_stem/kernel"
    found = _MBCONV.fullmatch(name)
    assert found is not None, name
    index, part, layer, leaf = found.groups()
    if part == "se":
        tail = f"_se/_se_{layer}/{kernel_leaf(leaf)}"
    elif layer == "bn":
        tail = f"{_NORMS[part]}/{BATCH_NORM[leaf]}"
    else:
        tail = f"_{part}_conv/{'depthwise_kernel' if part == 'depthwise' else 'kernel'}"
    return f"_blocks/{index}/{tail}"


def _bifpn(config: ModelConfig, name: str) -> list[str]:
    if name.startswith("extra_levels."):
        _, index, rest = name.split(".", 2)
        return [f"resample_layers/{index}/{resample_leaf(rest)}"]
    found = NODE.fullmatch(name)
    assert found is not None, name
    cell, node, part, rest = found.groups()
    prefix = f"fpn_cells/cells/{cell}/fnodes/{node}"
    if part == "fuse":
        inputs = bifpn_nodes(config.min_level, config.max_level)[int(node)].inputs
        return [f"{prefix}/WSM{counted(i)}" for i in range(len(inputs))]
    if part == "resamples":
        position, rest = rest.split(".", 1)
        return [f"{prefix}/resample_layers/{position}/{resample_leaf(rest)}"]
    tail = f"bn/{BATCH_NORM[rest]}" if part == "bn" else f"conv_op/{separable_leaf(rest)}"
    return [f"{prefix}/op_after_combine/{tail}"]


def _head(name: str) -> str:
    found = HEAD.fullmatch(name)
    assert found is not None, name
    kind, part, rest = found.groups()
    if part == "predict":
        return f"{kind}_net/{_LAST[kind]}/{separable_leaf(rest)}"
    if part == "convs":
        repeat, rest = rest.split(".", 1)
        return f"{kind}_net/conv_ops/{repeat}/{separable_leaf(rest)}"
    repeat, level, leaf = rest.split(".")
    return f"{kind}_net/bns/{repeat}/{level}/{BATCH_NORM[leaf]}"
