# SPDX-License-Identifier: Apache-2.0
"""Backbones, BiFPN, heads and the detectors made of them."""

from effdet.models.efficientdet import EfficientDet, build_model
from effdet.models.efficientnet import EfficientNet, EfficientNetClassifier
from effdet.models.layers import multiply_adds, trainable_parameters

__all__ = [
    "EfficientDet",
    "EfficientNet",
    "EfficientNetClassifier",
    "build_model",
    "multiply_adds",
    "trainable_parameters",
]
