# SPDX-License-Identifier: Apache-2.0
"""Operators with a definition in PyTorch and, where they are built, compiled kernels."""

from effdet.ops import _extension
from effdet.ops._extension import build_info
from effdet.ops.assign import AnchorAssignment, assign_anchors
from effdet.ops.box_loss import huber_box_loss
from effdet.ops.ema import ema_update_
from effdet.ops.focal_loss import sigmoid_focal_loss
from effdet.ops.nms import nms
from effdet.ops.select_candidates import select_candidates

__all__ = [
    "AnchorAssignment",
    "assign_anchors",
    "build_info",
    "ema_update_",
    "huber_box_loss",
    "nms",
    "select_candidates",
    "sigmoid_focal_loss",
]

_extension.load()
