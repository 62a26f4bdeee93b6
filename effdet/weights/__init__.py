# SPDX-License-Identifier: Apache-2.0
"""Weights of this toolkit and of others."""

from effdet.weights.average import average_checkpoints, average_weights
from effdet.weights.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_model,
    load_state,
    save_checkpoint,
)
from effdet.weights.classifier_file import Classifier
from effdet.weights.open import load_classifier, load_detector
from effdet.weights.transfer import Taken, transfer_backbone, transfer_weights

__all__ = [
    "Checkpoint",
    "Classifier",
    "Taken",
    "average_checkpoints",
    "average_weights",
    "load_checkpoint",
    "load_classifier",
    "load_detector",
    "load_model",
    "load_state",
    "save_checkpoint",
    "transfer_backbone",
    "transfer_weights",
]
