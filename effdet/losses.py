# SPDX-License-Identifier: Apache-2.0
"""What training minimises: focal loss on classes and Huber loss on boxes."""

from collections.abc import Sequence

from torch import Tensor

from effdet import distributed
from effdet.levels import values_per_anchor
from effdet.ops import huber_box_loss, sigmoid_focal_loss
from effdet.structures import Target
from effdet.targets import assign_targets

HUBER_DELTA = 0.1
"""Where the box loss turns from square to linear, in units of the box deltas."""


class DetectionLoss:
    """From predictions and ground truth to the losses of EfficientDet (arXiv:1911.09070, 4.1).

    ``cls_loss`` is the focal loss divided by N, ``box_loss`` the Huber loss divided by 4 N,
    ``loss`` their weighted sum, with N = foreground anchors + 1 over all processes, divided by the
    number of processes: averaged gradients are then those of one process with the whole batch.

    Args:
        anchors: ``[A, 4]`` xyxy in network pixels, on the training device.
        alpha: focal weight of the foreground, 0-1.
        gamma: focal exponent.
        label_smoothing: 0-1.
        box_loss_weight: weight of the box loss in the sum.
    """

    def __init__(
        self,
        anchors: Tensor,
        *,
        alpha: float = 0.25,
        gamma: float = 1.5,
        label_smoothing: float = 0.0,
        box_loss_weight: float = 50.0,
    ) -> None:
        self.anchors = anchors
        self.alpha = alpha
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.box_loss_weight = box_loss_weight

    def __call__(
        self,
        cls_logits: Sequence[Tensor],
        box_deltas: Sequence[Tensor],
        targets: list[Target],
        grad_scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The losses of one batch, float32 scalars.

        Args:
            cls_logits: levels ``[B, anchors * K, H, W]``.
            box_deltas: levels ``[B, anchors * 4, H, W]``.
            targets: ground truth of each image in network pixels, on the same device.
            grad_scale: factor that the sum will be multiplied by before the backward pass, as by a
                GradScaler, where it is known.
        """
        assignment = assign_targets(self.anchors, targets)
        foreground = distributed.all_reduce_sum(assignment.num_foreground)
        normalizer = (foreground + 1) / distributed.world_size()
        cls = sigmoid_focal_loss(
            cls_logits,
            assignment.cls_targets,
            num_classes=values_per_anchor(cls_logits, len(self.anchors)),
            alpha=self.alpha,
            gamma=self.gamma,
            label_smoothing=self.label_smoothing,
            normalizer=normalizer,
            grad_scale=grad_scale,
        )
        # The gradient that will come from upstream; a weight of 0 leaves nothing to foresee.
        box_scale = (self.box_loss_weight or 1.0) * (1.0 if grad_scale is None else grad_scale)
        box = huber_box_loss(
            box_deltas,
            self.anchors,
            assignment.boxes,
            assignment.matched,
            normalizer=4 * normalizer,
            grad_scale=box_scale,
            delta=HUBER_DELTA,
        )
        return {"loss": cls + self.box_loss_weight * box, "cls_loss": cls, "box_loss": box}
