# SPDX-License-Identifier: Apache-2.0
"""From a detector to a file for other runtimes, and such files in the place of a model."""

from effdet.export.comparing import Difference, Rows, compare_detections
from effdet.export.info import ExportInfo
from effdet.export.kinds import ENDINGS, is_exported, typed
from effdet.export.running import ExportedNetwork, open_exported
from effdet.export.writing import Exported, export

__all__ = [
    "ENDINGS",
    "Difference",
    "ExportInfo",
    "Exported",
    "ExportedNetwork",
    "Rows",
    "compare_detections",
    "export",
    "is_exported",
    "open_exported",
    "typed",
]
