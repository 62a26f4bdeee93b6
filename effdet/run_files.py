# SPDX-License-Identifier: Apache-2.0
"""What the files in the folder of a run are called."""

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
"""Checkpoints: to go on from, the one before, and the weights to use."""

CONFIG = "config.yaml"
"""The settings."""

MAX_BYTES = 1 << 30
"""Of a file of the folder that is read."""
