# SPDX-License-Identifier: Apache-2.0
"""The detector: backbone, BiFPN, heads."""

import torch
from torch import Tensor, nn

from effdet.config import ModelConfig
from effdet.models.bifpn import BiFPN
from effdet.models.efficientnet import build_backbone
from effdet.models.heads import box_head, class_head


class EfficientDet(nn.Module):
    """EfficientDet (arXiv:1911.09070).

    Args:
        config: a row of :data:`effdet.config.MODELS`, changed as wanted.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(
            config.backbone,
            tuple(range(config.min_level, 6)),
            padding=config.padding,
            survival_prob=config.survival_prob,
        )
        self.bifpn = BiFPN(self.backbone.out_channels, config)
        self.class_head = class_head(config)
        self.box_head = box_head(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images to raw predictions.

        Args:
            images: ``[B, 3, H, W]``, any size; anchors must be built for the same size.

        Returns:
            ``cls_logits [B, A, num_classes]`` and ``box_deltas [B, A, 4]`` (tx, ty, tw, th), the
            anchors in the order of :func:`effdet.anchors.build_anchors`.
        """
        pyramid = self.bifpn(self.backbone(images))
        return torch.cat(self.class_head(pyramid), 1), torch.cat(self.box_head(pyramid), 1)


def build_model(config: ModelConfig, *, channels_last: bool = True) -> EfficientDet:
    """A detector with fresh weights, laid out channels-last unless that is not wanted."""
    model = EfficientDet(config)
    return model.to(memory_format=torch.channels_last) if channels_last else model
