# SPDX-License-Identifier: Apache-2.0
"""Anchor boxes of all levels in one fixed order: level, row, column, octave, aspect ratio."""

import torch
from torch import Tensor

from effdet.config import ModelConfig


def feature_sizes(
    image_size: tuple[int, int], min_level: int, max_level: int
) -> list[tuple[int, int]]:
    """``(height, width)`` of each level's feature map: the image halved upwards, level by level."""
    height, width = image_size
    sizes = []
    for level in range(1, max_level + 1):
        height, width = (height + 1) // 2, (width + 1) // 2
        if level >= min_level:
            sizes.append((height, width))
    return sizes


def num_anchors(config: ModelConfig) -> int:
    """How many anchors a model has."""
    sizes = feature_sizes(config.image_size, config.min_level, config.max_level)
    return config.anchors_per_location * sum(height * width for height, width in sizes)


def build_anchors(
    config: ModelConfig,
    image_size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``[A, 4]`` float32 xyxy anchors in pixels of the network input, not clipped.

    Strides are image size / feature size and may be fractional, as in the reference.

    Args:
        config: the model.
        image_size: ``(height, width)`` of the input where it is not the model's own.
        device: where the anchors are wanted.
    """
    size = image_size if image_size is not None else config.image_size
    levels = feature_sizes(size, config.min_level, config.max_level)
    boxes = torch.cat([_level_anchors(size, level, config) for level in levels])
    return boxes.to(device=device, dtype=torch.float32)


class Anchors:
    """The anchors of a model by image size, made once each.

    Args:
        config: the model.
        device: where they are wanted.
    """

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None) -> None:
        self.config, self.device = config, device
        self._by_size: dict[tuple[int, int], Tensor] = {}

    def __call__(self, image_size: tuple[int, int]) -> Tensor:
        """``[A, 4]`` float32 xyxy anchors of ``(height, width)`` images."""
        if image_size not in self._by_size:
            self._by_size[image_size] = build_anchors(self.config, image_size, self.device)
        return self._by_size[image_size]


def _level_anchors(
    image_size: tuple[int, int], feature_size: tuple[int, int], config: ModelConfig
) -> Tensor:
    """``[H * W * anchors, 4]`` float64 boxes of one level."""
    stride_y, stride_x = (i / f for i, f in zip(image_size, feature_size, strict=True))
    y = (torch.arange(feature_size[0], dtype=torch.float64) + 0.5) * stride_y
    x = (torch.arange(feature_size[1], dtype=torch.float64) + 0.5) * stride_x
    center_y, center_x = torch.meshgrid(y, x, indexing="ij")
    center = torch.stack([center_x, center_y], -1)[:, :, None]  # [H, W, 1, 2]
    half = torch.tensor(_anchor_sizes(stride_y, stride_x, config), dtype=torch.float64) / 2
    return torch.cat([center - half, center + half], -1).reshape(-1, 4)


def _anchor_sizes(stride_y: float, stride_x: float, config: ModelConfig) -> list[list[float]]:
    """``(width, height)`` of the anchors at one location: octaves, then aspect ratios."""
    return [
        [
            config.anchor_scale * stride_x * 2 ** (octave / config.num_scales) * aspect**0.5,
            config.anchor_scale * stride_y * 2 ** (octave / config.num_scales) / aspect**0.5,
        ]
        for octave in range(config.num_scales)
        for aspect in config.aspect_ratios
    ]
