# SPDX-License-Identifier: Apache-2.0
"""The detector: backbone, BiFPN, heads."""

import torch
from torch import Tensor, nn

from effdet.config import BACKBONES, ModelConfig
from effdet.models.bifpn import BiFPN
from effdet.models.efficientnet import EfficientNet
from effdet.models.heads import box_head, class_head


class EfficientDet(nn.Module):
    """EfficientDet (arXiv:1911.09070).

    Args:
        config: a row of :data:`effdet.config.MODELS`, changed as wanted.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = EfficientNet(
            BACKBONES[config.backbone],
            tuple(range(config.min_level, 6)),
            padding=config.backbone_padding or config.padding,
            survival_prob=config.survival_prob,
            bn_eps=config.backbone_eps,
        )
        self.bifpn = BiFPN(self.backbone.out_channels, config)
        self.class_head = class_head(config)
        self.box_head = box_head(config)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images to raw predictions.

        Args:
            images: ``[B, 3, H, W]``, any size; anchors must be built for the same size.

        Returns:
            The class logits ``[B, anchors * num_classes, H, W]`` of each level, and the box deltas
            ``[B, anchors * 4, H, W]`` (tx, ty, tw, th). :func:`effdet.levels.flatten_levels` gives
            them as one row an anchor, in the order of :func:`effdet.anchors.build_anchors`.
        """
        pyramid = self.bifpn(self.backbone(images))
        return self.class_head(pyramid), self.box_head(pyramid)


def build_model(config: ModelConfig, *, channels_last: bool = True) -> EfficientDet:
    """A detector with fresh weights, laid out channels-last unless that is not wanted."""
    model = EfficientDet(config)
    return model.to(memory_format=torch.channels_last) if channels_last else model
