# SPDX-License-Identifier: Apache-2.0
"""What a training run keeps in its folder to be looked at later; :mod:`effdet.report` shows it."""

from effdet.keepsakes.keep import (
    BEST_VALIDATION,
    FOLDER,
    LABELS,
    NUM_BATCHES,
    Keepsakes,
    Validation,
    validated_images,
)

__all__ = [
    "BEST_VALIDATION",
    "FOLDER",
    "LABELS",
    "NUM_BATCHES",
    "Keepsakes",
    "Validation",
    "validated_images",
]
