# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of google/automl's EfficientDet and EfficientNet variables.

A pure mapping: for each of our tensors the variables it is made of, and how an array laid out as
TensorFlow does becomes ours.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from effdet.config import BACKBONES, ModelConfig
from effdet.models.bifpn import bifpn_nodes
from effdet.models.efficientnet import scaled_stages

_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_MBCONV = re.compile(r"blocks\.(\d+)\.(expand|depthwise|se|project)\.(\w+)\.(\w+)")
_HEAD = re.compile(r"(class|box)_head\.(convs|bns|predict)\.(.+)")
_NODE = re.compile(r"cells\.(\d+)\.nodes\.(\d+)\.(\w+)\.(.+)")


def variables(config: ModelConfig, name: str) -> list[str]:
    """The variables that make up our tensor ``name``: one, or one an input for fusion weights."""
    part, rest = name.split(".", 1)
    if part == "backbone":
        return [classifier_variable(config.backbone, name)]
    if part == "bifpn":
        return _bifpn(config, rest)
    return [_head(config, name)]


def classifier_variable(backbone: str, name: str) -> str:
    """The variable behind ``name`` of :class:`effdet.models.EfficientNetClassifier`."""
    part, rest = name.split(".", 1)
    prefix = backbone.replace("_", "-")
    if part == "backbone":
        return f"{prefix}/{_backbone(rest, scaled_stages(BACKBONES[backbone])[0].repeats)}"
    if part == "head":
        return f"{prefix}/head/{_conv_or_norm(rest)}"
    return f"{prefix}/head/dense/{_kernel(rest)}"


def to_ours(name: str, values: list[Tensor], num_coordinates: int = 4) -> Tensor:
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
    if name.startswith("box_head.predict.pointwise"):
        swapped = value.reshape(-1, num_coordinates, *value.shape[1:])[:, [1, 0, 3, 2]]
        value = swapped.reshape(value.shape)
    return value.contiguous()


def state_dict(
    config: ModelConfig, names: Iterable[str], arrays: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors ``names`` out of the variables in ``arrays``.

    Raises:
        KeyError: when a variable is missing.
    """
    return {
        name: to_ours(name, [arrays[variable] for variable in variables(config, name)])
        for name in names
        if not name.endswith("num_batches_tracked")
    }


def _backbone(name: str, unexpanded: int) -> str:
    if name.startswith("stem."):
        return f"stem/{_conv_or_norm(name.removeprefix('stem.'))}"
    match = _MBCONV.fullmatch(name)
    assert match is not None, name
    index, part, layer, leaf = match.groups()
    prefix = f"blocks_{index}"
    if part == "se":
        return f"{prefix}/se/conv2d{_counter(int(layer == 'expand'))}/{_kernel(leaf)}"
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
        return f"tpu_batch_normalization{_counter(count)}/{_BATCH_NORM[leaf]}"
    return f"conv2d{_counter(count)}/{_kernel(leaf)}"


def _bifpn(config: ModelConfig, name: str) -> list[str]:
    if name.startswith("extra_levels."):
        _, index, rest = name.split(".", 2)
        return [f"resample_p{6 + int(index)}/{_resample(rest)}"]
    match = _NODE.fullmatch(name)
    assert match is not None, name
    cell, node, part, rest = match.groups()
    inputs = bifpn_nodes(config.min_level, config.max_level)[int(node)].inputs
    number = len(config.levels) + int(node)
    prefix = f"fpn_cells/cell_{cell}/fnode{node}"
    if part == "fuse":
        return [f"{prefix}/WSM{_counter(i)}" for i in range(len(inputs))]
    if part == "resamples":
        position, rest = rest.split(".", 1)
        offset = inputs[int(position)]
        return [f"{prefix}/resample_{position}_{offset}_{number}/{_resample(rest)}"]
    tail = f"bn/{_BATCH_NORM[rest]}" if part == "bn" else f"conv/{_separable(rest)}"
    return [f"{prefix}/op_after_combine{number}/{tail}"]


def _head(config: ModelConfig, name: str) -> str:
    match = _HEAD.fullmatch(name)
    assert match is not None, name
    kind, part, rest = match.groups()
    if part == "predict":
        return f"{kind}_net/{kind}-predict/{_separable(rest)}"
    if part == "convs":
        repeat, rest = rest.split(".", 1)
        return f"{kind}_net/{kind}-{repeat}/{_separable(rest)}"
    repeat, level, leaf = rest.split(".")
    return f"{kind}_net/{kind}-{repeat}-bn-{config.min_level + int(level)}/{_BATCH_NORM[leaf]}"


def _resample(name: str) -> str:
    layer, leaf = name.split(".")
    return f"bn/{_BATCH_NORM[leaf]}" if layer == "bn" else f"conv2d/{_kernel(leaf)}"


def _separable(name: str) -> str:
    layer, leaf = name.split(".")
    return "bias" if leaf == "bias" else f"{layer}_kernel"


def _kernel(leaf: str) -> str:
    return "kernel" if leaf == "weight" else leaf


def _counter(count: int) -> str:
    return f"_{count}" if count else ""
