# SPDX-License-Identifier: Apache-2.0
"""A model's outputs as one row an anchor."""

from torch import Tensor, nn

from effdet.levels import flatten_levels


def flat_outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits ``[B, A, K]`` and box deltas ``[B, A, 4]`` of a detector for ``images``."""
    cls_logits, box_deltas = model(images)
    locations = sum(x.shape[2] * x.shape[3] for x in box_deltas)
    anchors = sum(x[0].numel() for x in box_deltas) // 4
    num_classes = cls_logits[0].shape[1] * locations // anchors
    return flatten_levels(cls_logits, num_classes), flatten_levels(box_deltas, 4)
