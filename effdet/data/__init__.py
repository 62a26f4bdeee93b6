# SPDX-License-Identifier: Apache-2.0
"""From annotated images on disk to batches."""

from effdet.data.coco import CocoDataset, DataReport
from effdet.data.images import decode_image
from effdet.data.loader import Loader, build_eval_loader, build_train_loader
from effdet.data.locate import locate, locate_split
from effdet.data.shapes import ensure_shapes, resolve_data
from effdet.data.sizes import ImageSizes
from effdet.data.transforms import EvalTransform, TrainTransform, letterbox

__all__ = [
    "CocoDataset",
    "DataReport",
    "EvalTransform",
    "ImageSizes",
    "Loader",
    "TrainTransform",
    "build_eval_loader",
    "build_train_loader",
    "decode_image",
    "ensure_shapes",
    "letterbox",
    "locate",
    "locate_split",
    "resolve_data",
]
