# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression of a batch: hard, or soft with linear or Gaussian decay.

Time and again each image's best remaining candidate is picked, and those of its class lose score by
their overlap with it (Soft-NMS, Bodla et al. 2017, https://arxiv.org/abs/1704.04503)::

    hard        all of it                                    where IoU > iou_threshold
    linear      score *= 1 - IoU                             where IoU > iou_threshold
    gaussian    score *= exp(-IoU^2 / sigma)                 everywhere

Since picks come in falling score, this is what separate suppression of each class and a merge of
the results would give. Classes are compared by their label: no offset is added to the boxes, which
costs precision.
"""

import math
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from effdet.boxes import box_area, box_intersection
from effdet.ops.select_candidates import REMOVED
from effdet.settings import NMS


class Suppression(NamedTuple):
    """What was picked of each image, best first, D places an image.

    Attributes:
        picks: ``[B, D]`` int64 into the candidates, 0 in unused places.
        scores: ``[B, D]`` float32 scores after the decay, falling, -1 in unused places.
        counts: ``[B]`` int64, how many places are used.
    """

    picks: Tensor
    scores: Tensor
    counts: Tensor


def nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    method: NMS = "hard",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    score_threshold: float = 0.0,
    max_detections: int = 100,
    max_per_class: int = 0,
    class_agnostic: bool = False,
) -> Suppression:
    """Non-maximum suppression within each class, all images at once, without a host sync.

    Of equal scores the lowest index is picked first. IoU = inter / (area + area - inter) in
    float32; where that is 0 / 0 or otherwise NaN the boxes do not overlap. Hard suppression equals
    ``torchvision.ops.nms`` run on each class and merged by a stable sort.

    Args:
        boxes: ``[B, C, 4]`` float32 xyxy.
        scores: ``[B, C]`` float32, in any order, best first is fastest; NaN is never picked.
        labels: ``[B, C]`` int64 class indices, any values.
        method: what an overlap costs: "hard", "linear" or "gaussian".
        iou_threshold: overlap above which hard and linear act, in [0, 1]; no effect on gaussian.
        sigma: width of gaussian, above 0.
        score_threshold: candidates at or below it, before or after decay, are never picked; in
            [0, 1].
        max_detections: picks an image at most, at least 1; D = min(max_detections, C).
        max_per_class: picks of one label an image at most; 0 for no limit.
        class_agnostic: let a pick act on all candidates, whatever their class.

    Raises:
        ValueError: for a wrong shape, dtype, device or setting.
    """
    _check_settings(method, iou_threshold, sigma, score_threshold, max_detections, max_per_class)
    _check_tensors(boxes, scores, labels)
    return Suppression(
        *_op(
            boxes.detach(),
            scores.detach(),
            labels,
            method,
            float(iou_threshold),
            float(sigma),
            float(score_threshold),
            max_detections,
            max_per_class,
            class_agnostic,
        )
    )


def _check_settings(
    method: str,
    iou_threshold: float,
    sigma: float,
    score_threshold: float,
    max_detections: int,
    max_per_class: int,
) -> None:
    if method not in get_args(NMS):
        raise ValueError(f"method must be gaussian, linear or hard, got {method!r}")
    for name, value in (("iou_threshold", iou_threshold), ("score_threshold", score_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    if not torch.finfo(torch.float32).tiny <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and above 0 in float32, got {sigma}")
    for name, count, least in (
        ("max_detections", max_detections, 1),
        ("max_per_class", max_per_class, 0),
    ):
        if isinstance(count, float):
            raise ValueError(f"{name} must be an integer, got {count}")
        if not least <= count < 2**63:
            raise ValueError(f"{name} must be at least {least} and below 2**63, got {count}")


def _check_tensors(boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    if boxes.dim() != 3 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must be [B, C, 4], got {list(boxes.shape)}")
    for name, values, dtype in (
        ("boxes", boxes, torch.float32),
        ("scores", scores, torch.float32),
        ("labels", labels, torch.int64),
    ):
        if values.shape[:2] != boxes.shape[:2] or (values is not boxes and values.dim() != 2):
            raise ValueError(
                f"{name} must be [B, C] = {list(boxes.shape[:2])}, got {list(values.shape)}"
            )
        if values.dtype != dtype:
            raise ValueError(f"{name} must be {dtype}, got {values.dtype}")
        if values.device != boxes.device:
            raise ValueError(f"{name} must be on the device {boxes.device}, got {values.device}")


def reference(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    method: str,
    iou_threshold: float,
    sigma: float,
    score_threshold: float,
    max_detections: int,
    max_per_class: int,
    class_agnostic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of the operator, for the arguments of the public function.

    Returns:
        The fields of :class:`Suppression`.
    """
    num_images, num_candidates = scores.shape
    num_picks = min(max_detections, num_candidates)
    picks = labels.new_zeros(num_images, num_picks)
    kept = scores.new_zeros(num_images, num_picks)
    same_class = torch.zeros_like(labels)  # how many of its class have been picked
    left, areas = scores, box_area(boxes)
    for i in range(num_picks):
        left = torch.where(left > score_threshold, left, REMOVED)  # NaN is not above
        best, pick = left.max(1, keepdim=True)  # [B, 1]; the first of equal ones
        picks[:, i], kept[:, i] = pick[:, 0], best[:, 0]
        mates = labels == labels.gather(1, pick)
        iou = _iou_with_pick(boxes, areas, pick)
        decayed = left * _decay(iou, method, iou_threshold, sigma)
        left = torch.where(mates | class_agnostic, decayed, left)
        left = left.scatter(1, pick, REMOVED)
        if max_per_class:
            same_class = same_class + mates
            left = torch.where(same_class < max_per_class, left, REMOVED)
    used = kept > score_threshold
    return torch.where(used, picks, 0), torch.where(used, kept, REMOVED), used.sum(1)


def _iou_with_pick(boxes: Tensor, areas: Tensor, pick: Tensor) -> Tensor:
    """IoU ``[B, C]`` of each candidate with its image's pick ``[B, 1]``; 0 instead of NaN."""
    picked = boxes.gather(1, pick[..., None].expand(-1, -1, 4))
    intersection = box_intersection(boxes, picked)
    union = areas.gather(1, pick) + areas - intersection
    return (intersection / union).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def _decay(iou: Tensor, method: str, iou_threshold: float, sigma: float) -> Tensor:
    """What is left, 0-1, of the score of a box that overlaps a better one by ``iou``."""
    if method == "gaussian":
        return torch.exp(iou.square() / -sigma)
    # In double, as torchvision compares: 0.7 as a float32 is below 0.7.
    above = iou.double() > iou_threshold
    return torch.where(above, 0.0 if method == "hard" else 1 - iou, 1.0)


_op = torch.library.custom_op("effdet::nms", reference, mutates_args=())


@_op.register_fake
def _(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    method: str,
    iou_threshold: float,
    sigma: float,
    score_threshold: float,
    max_detections: int,
    max_per_class: int,
    class_agnostic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    places = (scores.shape[0], torch.sym_min(max_detections, scores.shape[1]))
    return (
        labels.new_empty(places),
        scores.new_empty(places),
        labels.new_empty(places[:1]),
    )
