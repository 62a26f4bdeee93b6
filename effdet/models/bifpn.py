# SPDX-License-Identifier: Apache-2.0
"""The bidirectional feature pyramid of EfficientDet (arXiv:1911.09070, section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effdet.config import Fusion, ModelConfig
from effdet.models.layers import (
    Resample,
    SeparableConv2d,
    activation,
    batch_norm,
    convolutions,
    init_glorot_uniform,
)


@dataclass(frozen=True)
class Node:
    """One fusion: its pyramid level and the features it adds (cell inputs first, then nodes)."""

    level: int
    inputs: tuple[int, ...]


def bifpn_nodes(min_level: int, max_level: int) -> list[Node]:
    """The nodes of one cell: top-down to ``min_level``, then bottom-up to ``max_level``.

    A top-down node adds its level's input and the coarser result; a bottom-up node adds everything
    its level has so far and the finer result.
    """
    features = {level: [index] for index, level in enumerate(range(min_level, max_level + 1))}
    nodes: list[Node] = []

    def add(level: int, inputs: list[int]) -> None:
        features[level].append(max_level - min_level + 1 + len(nodes))
        nodes.append(Node(level, tuple(inputs)))

    for level in range(max_level - 1, min_level - 1, -1):
        add(level, [features[level][-1], features[level + 1][-1]])
    for level in range(min_level + 1, max_level + 1):
        add(level, [*features[level], features[level - 1][-1]])
    return nodes


class WeightedSum(nn.Module):
    """Add feature maps with learned weights.

    ``fastattn``: ``sum(relu(w_i) x_i) / (sum(relu(w)) + 1e-4)``; ``attn``: softmax weights;
    ``sum``: all weights one (no parameters). Equations of section 3.3 of the paper.
    """

    def __init__(self, num_inputs: int, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion
        if fusion != "sum":
            self.weight = nn.Parameter(torch.ones(num_inputs))

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Feature maps of one shape to their sum."""
        if self.fusion == "sum":
            return sum(inputs[1:], inputs[0])
        if self.fusion == "attn":
            weights = self.weight.softmax(0)
        else:
            weights = self.weight.relu()
            weights = weights / (weights.sum() + 1e-4)
        parts = [x * w.to(x.dtype) for x, w in zip(inputs, weights.unbind(), strict=True)]
        return sum(parts[1:], parts[0])


class BiFPNNode(nn.Module):
    """Resample the inputs to one level, add them, activate, convolve, normalise."""

    def __init__(self, in_channels: list[int], config: ModelConfig) -> None:
        super().__init__()
        self.resamples = nn.ModuleList(
            Resample(channels, config.width, config.padding) for channels in in_channels
        )
        self.fuse = WeightedSum(len(in_channels), config.fusion)
        # The sum may be one of the features that others still need, so never in place.
        self.act = nn.ReLU6() if config.lite else activation(lite=False)
        self.conv = SeparableConv2d(config.width, config.width, bias=config.padding == "same")
        self.bn = batch_norm(config.width)

    def forward(self, inputs: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Feature maps of any size to ``[B, width, *size]``."""
        resampled = [resample(x, size) for resample, x in zip(self.resamples, inputs, strict=True)]
        return self.bn(self.conv(self.act(self.fuse(resampled))))


class BiFPNCell(nn.Module):
    """One pass down and up the pyramid.

    Args:
        in_channels: channels of each level, finest first.
        config: the model.
    """

    def __init__(self, in_channels: list[int], config: ModelConfig) -> None:
        super().__init__()
        self.plan = bifpn_nodes(config.min_level, config.max_level)
        self.min_level = config.min_level
        channels = list(in_channels)
        self.nodes = nn.ModuleList()
        for node in self.plan:
            self.nodes.append(BiFPNNode([channels[i] for i in node.inputs], config))
            channels.append(config.width)
        last = {node.level: len(in_channels) + i for i, node in enumerate(self.plan)}
        self.outputs = [last[level] for level in config.levels]

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        """``[B, C_l, H_l, W_l]`` a level to ``[B, width, H_l, W_l]`` a level."""
        features = list(pyramid)
        for plan, node in zip(self.plan, self.nodes, strict=True):
            height, width = pyramid[plan.level - self.min_level].shape[-2:]
            features.append(node([features[i] for i in plan.inputs], (height, width)))
        return [features[i] for i in self.outputs]


class BiFPN(nn.Module):
    """The coarser levels made from P5, then a stack of cells.

    Args:
        backbone_channels: channels of the backbone's levels ``min_level`` to 5.
        config: the model.
    """

    def __init__(self, backbone_channels: list[int], config: ModelConfig) -> None:
        super().__init__()
        extra = range(6, config.max_level + 1)
        channels = [backbone_channels[-1], *[config.width] * len(extra)]
        self.extra_levels = nn.ModuleList(
            Resample(channels[i], config.width, config.padding) for i in range(len(extra))
        )
        widths = [backbone_channels + channels[1:]]
        widths += [[config.width] * len(config.levels)] * (config.bifpn_cells - 1)
        self.cells = nn.ModuleList(BiFPNCell(width, config) for width in widths)
        for conv in convolutions(self):
            init_glorot_uniform(conv)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Backbone features, finest first, to ``[B, width, H_l, W_l]`` for every level."""
        pyramid = list(features)
        for resample in self.extra_levels:
            height, width = pyramid[-1].shape[-2:]
            pyramid.append(resample(pyramid[-1], ((height + 1) // 2, (width + 1) // 2)))
        for cell in self.cells:
            pyramid = cell(pyramid)
        return pyramid
