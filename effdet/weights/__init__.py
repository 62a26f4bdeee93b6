# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of this toolkit and of others."""

from effdet.weights.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_model,
    load_state,
    read_tensors,
    save_checkpoint,
)
from effdet.weights.transfer import load_backbone, load_detector_weights

__all__ = [
    "Checkpoint",
    "load_backbone",
    "load_checkpoint",
    "load_detector_weights",
    "load_model",
    "load_state",
    "read_tensors",
    "save_checkpoint",
]
