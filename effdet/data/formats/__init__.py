# SPDX-License-Identifier: Apache-2.0
"""Data sets of several formats, found by their content and read into one table."""

from effdet.data.formats.read import collect_split, read_split, salvage_split
from effdet.data.formats.split import SplitFiles

__all__ = ["SplitFiles", "collect_split", "read_split", "salvage_split"]
