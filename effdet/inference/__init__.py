# SPDX-License-Identifier: Apache-2.0
"""From images and videos to detections, pictures and records."""

from effdet.inference.draw import draw
from effdet.inference.folder import FolderReport, predict_to_folder
from effdet.inference.load import ExportedDetector, load
from effdet.inference.predict import Detector
from effdet.inference.reading import ReadSettings
from effdet.inference.sources import AnySource, ImageSource, VideoSource, expand_sources
from effdet.inference.streaming import Prediction
from effdet.inference.tiles import TILE_OVERLAP
from effdet.inference.video import import_av

__all__ = [
    "TILE_OVERLAP",
    "AnySource",
    "Detector",
    "ExportedDetector",
    "FolderReport",
    "ImageSource",
    "Prediction",
    "ReadSettings",
    "VideoSource",
    "draw",
    "expand_sources",
    "import_av",
    "load",
    "predict_to_folder",
]
