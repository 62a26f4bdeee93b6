# SPDX-License-Identifier: Apache-2.0
"""What training minimises: focal loss on classes and Huber loss on boxes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from effdet import distributed
from effdet.levels import values_per_anchor
from effdet.ops import huber_box_loss, sigmoid_focal_loss
from effdet.settings import Normalizer
from effdet.structures import Batch
from effdet.targets import Assignment, assign_targets

HUBER_DELTA = 0.1
"""Where the box loss turns from square to linear, in units of the box deltas."""


class DetectionLoss:
    """From predictions and ground truth to the losses of EfficientDet (arXiv:1911.09070, 4.1).

    ``cls_loss`` is the focal loss divided by N, ``box_loss`` the Huber loss divided by 4 N,
    ``loss`` their weighted sum. N is foreground anchors + 1 of one optimizer step: with
    ``global`` over all its batches on all processes, divided by the number of processes, so that
    averaged gradients are those of one process with the whole batch; with ``process`` over the
    batches of this process alone, as NVIDIA's and google/automl's trainers have it.

    A step of several batches goes so: :meth:`assign` for each, :meth:`normalizer` of all, then
    the call for each. Their losses and gradients are summed.

    Args:
        anchors: ``(height, width)`` of the images to ``[A, 4]`` xyxy in network pixels, on the
            training device; see :class:`effdet.anchors.Anchors`.
        alpha: focal weight of the foreground, 0-1.
        gamma: focal exponent.
        label_smoothing: 0-1.
        box_loss_weight: weight of the box loss in the sum.
        share: ``global`` or ``process``, see above.
    """

    def __init__(
        self,
        anchors: Callable[[tuple[int, int]], Tensor],
        *,
        alpha: float = 0.25,
        gamma: float = 1.5,
        label_smoothing: float = 0.0,
        box_loss_weight: float = 50.0,
        share: Normalizer = "global",
    ) -> None:
        self.anchors = anchors
        self.alpha = alpha
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.box_loss_weight = box_loss_weight
        self.share = share

    def assign(self, batch: Batch) -> Assignment:
        """What every anchor of ``batch``, which is on the anchors' device, should predict."""
        height, width = batch.images.shape[-2:]
        return assign_targets(self.anchors((height, width)), batch.targets)

    def normalizer(self, assignments: Sequence[Assignment]) -> Tensor:
        """What the losses of a step's batches are divided by, a float32 scalar.

        A batch, a process or a step without a single box is no exception.
        """
        foreground = torch.stack([a.num_foreground for a in assignments]).sum()
        if self.share == "process":
            return foreground + 1
        return (distributed.all_reduce_sum(foreground) + 1) / distributed.world_size()

    def __call__(
        self,
        cls_logits: Sequence[Tensor],
        box_deltas: Sequence[Tensor],
        assignment: Assignment,
        normalizer: Tensor,
        grad_scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The losses of one batch, float32 scalars.

        Args:
            cls_logits: levels ``[B, anchors * K, H, W]``.
            box_deltas: levels ``[B, anchors * 4, H, W]``.
            assignment: of the batch.
            normalizer: of the step.
            grad_scale: factor that the sum will be multiplied by before the backward pass, as by a
                GradScaler, where it is known.
        """
        cls = sigmoid_focal_loss(
            cls_logits,
            assignment.cls_targets,
            num_classes=values_per_anchor(cls_logits, len(assignment.anchors)),
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
            assignment.anchors,
            assignment.boxes,
            assignment.matched,
            normalizer=4 * normalizer,
            grad_scale=box_scale,
            delta=HUBER_DELTA,
        )
        return {"loss": cls + self.box_loss_weight * box, "cls_loss": cls, "box_loss": box}
