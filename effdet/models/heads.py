# SPDX-License-Identifier: Apache-2.0
"""Class and box heads: convolutions shared by all levels, batch norms of each level's own."""

import math

from torch import Tensor, nn

from effdet.config import ModelConfig
from effdet.models.layers import (
    SeparableConv2d,
    activation,
    batch_norm,
    convolutions,
    init_variance_scaling,
)

PRIOR = 0.01
"""Foreground probability a fresh class head predicts (RetinaNet, arXiv:1708.02002)."""


class Head(nn.Module):
    """The same small network on every level, giving ``outputs`` values an anchor."""

    def __init__(self, config: ModelConfig, outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            SeparableConv2d(config.width, config.width, bias=config.padding == "same")
            for _ in range(config.head_repeats)
        )
        self.bns = nn.ModuleList(
            nn.ModuleList(batch_norm(config.width) for _ in config.levels)
            for _ in range(config.head_repeats)
        )
        self.act = activation(config.lite)
        self.predict = SeparableConv2d(
            config.width, config.anchors_per_location * outputs, bias=True
        )
        for conv in convolutions(self):
            init_variance_scaling(conv)
        assert self.predict.pointwise.bias is not None
        nn.init.constant_(self.predict.pointwise.bias, bias)

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        """``[B, width, H, W]`` a level to ``[B, anchors * outputs, H, W]`` a level."""
        return [self._level(x, level) for level, x in enumerate(pyramid)]

    def _level(self, x: Tensor, level: int) -> Tensor:
        for conv, bns in zip(self.convs, self.bns, strict=True):
            x = self.act(bns[level](conv(x)))  # type: ignore[index]  # a ModuleList
        logits: Tensor = self.predict(x)
        return logits


def class_head(config: ModelConfig) -> Head:
    """The head that gives a logit for each class, starting at probability :data:`PRIOR`."""
    return Head(config, config.num_classes, bias=-math.log((1 - PRIOR) / PRIOR))


def box_head(config: ModelConfig) -> Head:
    """The head that gives (tx, ty, tw, th)."""
    return Head(config, 4)
