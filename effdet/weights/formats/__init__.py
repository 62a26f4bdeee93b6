# SPDX-License-Identifier: Apache-2.0
"""Readers of the kinds of files that hold tensors; each gives a ``TensorFile``."""

from effdet.weights.formats.any_file import open_file

__all__ = ["open_file"]
