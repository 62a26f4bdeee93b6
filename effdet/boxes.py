# SPDX-License-Identifier: Apache-2.0
"""Box arithmetic: areas, overlaps, clipping and the coding of boxes against anchors.

Boxes are ``[..., 4]`` xyxy = (left, top, right, bottom) in pixels, x to the right and y downwards.
"""

import torch
from torch import Tensor

MIN_SIZE = 1e-8
"""Pixels; sides are taken as at least this long before a logarithm or a division."""


def box_area(boxes: Tensor) -> Tensor:
    """Areas of ``[..., 4]`` xyxy boxes, ``[...]`` in square pixels."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1) * (y2 - y1)


def box_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area that ``a`` and ``b`` share, in square pixels; shapes ``[..., 4]`` that broadcast."""
    top_left = torch.maximum(a[..., :2], b[..., :2])
    bottom_right = torch.minimum(a[..., 2:], b[..., 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    return width * height


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair.

    Args:
        a: ``[N, 4]`` xyxy.
        b: ``[M, 4]`` xyxy.

    Returns:
        ``[N, M]`` in [0, 1]; 0 where both boxes have no area.
    """
    intersection = box_intersection(a[:, None], b[None])
    union = box_area(a)[:, None] + box_area(b)[None] - intersection
    return _ratio(intersection, union)


def box_ioa(a: Tensor, b: Tensor) -> Tensor:
    """Share of each box of ``a`` that lies inside each box of ``b``.

    Args:
        a: ``[N, 4]`` xyxy.
        b: ``[M, 4]`` xyxy, such as crowd regions.

    Returns:
        ``[N, M]`` in [0, 1]; 0 where the box of ``a`` has no area.
    """
    return _ratio(box_intersection(a[:, None], b[None]), box_area(a)[:, None])


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``[..., 4]`` xyxy boxes cut to an image of ``size`` = (height, width)."""
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limit)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes as offsets from anchors, the coding of Faster R-CNN (arXiv:1506.01497, eq. 2) unscaled.

    Args:
        boxes: ``[..., 4]`` xyxy.
        anchors: ``[..., 4]`` xyxy, of a shape that broadcasts with ``boxes``.

    Returns:
        ``[..., 4]`` (tx, ty, tw, th): centre offsets in anchor sizes, logarithms of size ratios.
    """
    centres, sizes = _centres_and_sizes(boxes)
    anchor_centres, anchor_sizes = _centres_and_sizes(anchors)
    sizes, anchor_sizes = sizes.clamp(min=MIN_SIZE), anchor_sizes.clamp(min=MIN_SIZE)
    offsets = (centres - anchor_centres) / anchor_sizes
    return torch.cat([offsets, torch.log(sizes / anchor_sizes)], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of :func:`encode_boxes`.

    Args:
        deltas: ``[..., 4]`` (tx, ty, tw, th).
        anchors: ``[..., 4]`` xyxy, of a shape that broadcasts with ``deltas``.

    Returns:
        ``[..., 4]`` xyxy; neither clipped nor limited, so a wild tw or th gives an infinite box.
    """
    centres, sizes = _centres_and_sizes(anchors)
    centres = deltas[..., :2] * sizes + centres
    half = deltas[..., 2:].exp() * sizes / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def _centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return (top_left + bottom_right) / 2, bottom_right - top_left


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, 0 where there is nothing to share."""
    return torch.where(whole > 0, part / whole, torch.zeros_like(part))
