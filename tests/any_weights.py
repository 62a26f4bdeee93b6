# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a tensor or two: for tests of files, to which the model does not matter."""

from typing import Any
from unittest import mock


def any_weights() -> Any:
    """A context in which a checkpoint's tensors may be other than those of its model."""
    return mock.patch("effdet.weights.entries.check_state")
