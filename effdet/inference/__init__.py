# SPDX-License-Identifier: Apache-2.0
"""From images to detections and pictures."""

from effdet.inference.draw import draw
from effdet.inference.folder import FolderReport, predict_to_folder
from effdet.inference.load import load
from effdet.inference.predict import Detector
from effdet.inference.sources import expand_sources

__all__ = [
    "Detector",
    "FolderReport",
    "draw",
    "expand_sources",
    "load",
    "predict_to_folder",
]
