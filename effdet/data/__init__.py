# SPDX-License-Identifier: Apache-2.0
"""From annotated images on disk to batches."""

from effdet.data.coco import CocoDataset, DataReport
from effdet.data.formats import SplitFiles, collect_split, read_split
from effdet.data.images import decode_image
from effdet.data.loader import Loader, build_eval_loader, build_train_loader
from effdet.data.locate import find_splits, locate_split
from effdet.data.shapes import resolve_data
from effdet.data.sizes import ImageSizes
from effdet.data.transforms import EvalTransform, TrainTransform, letterbox

__all__ = [
    "CocoDataset",
    "DataReport",
    "EvalTransform",
    "ImageSizes",
    "Loader",
    "SplitFiles",
    "TrainTransform",
    "build_eval_loader",
    "build_train_loader",
    "collect_split",
    "decode_image",
    "find_splits",
    "letterbox",
    "locate_split",
    "read_split",
    "resolve_data",
]
