# SPDX-License-Identifier: Apache-2.0
"""EfficientNet B0-B7 (arXiv:1905.11946) and Lite0-4: backbone and classifier."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from effdet.config import BACKBONES, BN_EPS, BackboneConfig, ClassifierConfig, Padding
from effdet.models.layers import (
    activation,
    batch_norm,
    conv2d,
    convolutions,
    init_normal_fan_out,
    stochastic_depth,
)


@dataclass(frozen=True)
class Stage:
    """A run of equal blocks, before width and depth scaling."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


# fmt: off
STAGES = (
    Stage(repeats=1, kernel=3, stride=1, expand=1, channels=16),
    Stage(repeats=2, kernel=3, stride=2, expand=6, channels=24),
    Stage(repeats=2, kernel=5, stride=2, expand=6, channels=40),
    Stage(repeats=3, kernel=3, stride=2, expand=6, channels=80),
    Stage(repeats=3, kernel=5, stride=1, expand=6, channels=112),
    Stage(repeats=4, kernel=5, stride=2, expand=6, channels=192),
    Stage(repeats=1, kernel=3, stride=1, expand=6, channels=320),
)
# fmt: on
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


def scaled_channels(channels: int, width: float) -> int:
    """``channels * width`` rounded to a multiple of 8, never more than 10 % down."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def scaled_stages(config: BackboneConfig) -> list[Stage]:
    """The stages of one model; Lite does not deepen its first and last."""
    last = len(STAGES) - 1
    return [
        Stage(
            repeats=s.repeats
            if config.lite and i in (0, last)
            else math.ceil(s.repeats * config.depth),
            kernel=s.kernel,
            stride=s.stride,
            expand=s.expand,
            channels=scaled_channels(s.channels, config.width),
        )
        for i, s in enumerate(STAGES)
    ]


class ConvNormAct(nn.Module):
    """Convolution, batch norm and (unless ``act`` is None) activation."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv
        self.bn = batch_norm(conv.out_channels)
        self.act = act if act is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H', W']``."""
        return self.act(self.bn(self.conv(x)))


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means (arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int, act: nn.Module) -> None:
        super().__init__()
        self.reduce = conv2d(channels, squeezed, 1, bias=True)
        self.act = act
        self.expand = conv2d(squeezed, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        gate = x.mean((2, 3), keepdim=True)  # [B, C, 1, 1]
        return x * self.expand(self.act(self.reduce(gate))).sigmoid()


class MBConv(nn.Module):
    """Inverted residual: widen 1x1, filter depthwise, squeeze and excite, project 1x1."""

    def __init__(
        self,
        in_channels: int,
        stage: Stage,
        stride: int,
        *,
        lite: bool,
        padding: Padding,
        survival_prob: float,
    ) -> None:
        super().__init__()
        act, hidden = activation(lite), in_channels * stage.expand
        self.survival_prob = survival_prob
        self.skip = stride == 1 and in_channels == stage.channels
        self.expand: nn.Module = nn.Identity()
        if stage.expand != 1:
            self.expand = ConvNormAct(conv2d(in_channels, hidden, 1), act)
        depthwise = conv2d(
            hidden, hidden, stage.kernel, stride=stride, groups=hidden, padding=padding
        )
        self.depthwise = ConvNormAct(depthwise, act)
        self.se: nn.Module = nn.Identity()
        if not lite:
            self.se = SqueezeExcite(hidden, max(1, in_channels // 4), act)
        self.project = ConvNormAct(conv2d(hidden, stage.channels, 1), None)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H', W']``."""
        y = self.project(self.se(self.depthwise(self.expand(x))))
        if self.skip:
            y = stochastic_depth(y, self.survival_prob, self.training) + x
        return y


class EfficientNet(nn.Module):
    """Stem and blocks; gives the feature maps of the asked pyramid levels.

    Args:
        config: a row of :data:`effdet.config.BACKBONES`.
        levels: levels to return, 1 (stride 2) to 5 (stride 32).
        padding: ``same`` or ``symmetric``.
        survival_prob: chance that the last block's residual is kept; earlier ones are kept more.
        bn_eps: what batch norms add to a variance.
    """

    def __init__(
        self,
        config: BackboneConfig,
        levels: tuple[int, ...] = (3, 4, 5),
        *,
        padding: Padding = "same",
        survival_prob: float = 0.8,
        bn_eps: float = BN_EPS,
    ) -> None:
        super().__init__()
        stages = scaled_stages(config)
        stem = STEM_CHANNELS if config.lite else scaled_channels(STEM_CHANNELS, config.width)
        self.stem = ConvNormAct(
            conv2d(3, stem, 3, stride=2, padding=padding), activation(config.lite)
        )
        plan = [
            (stage, stage.stride if i == 0 else 1) for stage in stages for i in range(stage.repeats)
        ]
        self.blocks = nn.ModuleList()
        channels, ends = stem, []
        for index, (stage, stride) in enumerate(plan):
            survival = 1.0 - (1.0 - survival_prob) * index / len(plan)
            self.blocks.append(
                MBConv(
                    channels,
                    stage,
                    stride,
                    lite=config.lite,
                    padding=padding,
                    survival_prob=survival,
                )
            )
            channels = stage.channels
            if index + 1 == len(plan) or plan[index + 1][1] == 2:
                ends.append((index, channels))  # the last block before the size halves
        self.level_of_block = {ends[level - 1][0]: level for level in levels}
        self.out_channels = [ends[level - 1][1] for level in levels]
        for conv in convolutions(self):
            init_normal_fan_out(conv)
        _set_eps(self, bn_eps)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` normalised images to ``[B, C, H/2^l, W/2^l]`` for each level ``l``."""
        x, features = self.stem(images), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.level_of_block:
                features.append(x)
        return features


class EfficientNetClassifier(nn.Module):
    """An EfficientNet with its ImageNet head: where backbone weights come from and are checked.

    Args:
        config: which one; without ``num_classes`` it ends with the last block's features.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        scaling = BACKBONES[config.backbone]
        self.backbone = EfficientNet(scaling, (5,), padding=config.padding)
        if config.num_classes is not None:
            head = HEAD_CHANNELS if scaling.lite else scaled_channels(HEAD_CHANNELS, scaling.width)
            self.head = ConvNormAct(
                conv2d(self.backbone.out_channels[0], head, 1), activation(scaling.lite)
            )
            self.dropout = nn.Dropout(scaling.dropout)
            self.classifier = nn.Linear(head, config.num_classes)
            init_normal_fan_out(self.head.conv)
            limit = config.num_classes**-0.5
            nn.init.uniform_(self.classifier.weight, -limit, limit)
            nn.init.zeros_(self.classifier.bias)
        _set_eps(self, config.bn_eps)
        self.has_head = config.num_classes is not None

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` normalised images to ``[B, num_classes]`` logits, or to features."""
        features: Tensor = self.backbone(images)[0]
        if not self.has_head:
            return features
        return self.classifier(self.dropout(self.head(features).mean((2, 3))))


def _set_eps(module: nn.Module, eps: float) -> None:
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eps = eps
