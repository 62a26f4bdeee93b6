# SPDX-License-Identifier: Apache-2.0
"""The programs whose weights are read, one module each."""

from effdet.weights.sources.programs import SOURCES

__all__ = ["SOURCES"]
