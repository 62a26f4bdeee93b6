# SPDX-License-Identifier: Apache-2.0
"""Large images in tiles: small objects are seen at the size they have, large ones in the whole.

Slicing as in SAHI (Akyon et al., arXiv:2202.06934): the whole image and overlapping tiles of it are
looked at. What is done here about a tile's edges:

- A box that touches an inner edge of its tile is *cut*: the object may go on beyond it.
- Two cut boxes of one class are pieces of one object where they look alike in the part of the image
  that both tiles show: there their IoU is above 0.5. Pieces are put together to one box around all,
  over any number of tiles.
- A cut box that lies inside a whole box of its class by more than half is a piece of that, and
  goes.
- All that is left is suppressed within each class, as two tiles may have found the same object.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from effdet.boxes import MIN_SIZE, box_area, box_intersection, box_ioa, clip_boxes
from effdet.inference.fusion import join, suppress
from effdet.settings import PostprocessConfig
from effdet.structures import Detections

Size = tuple[int, int]

TILE_OVERLAP = 0.2
"""Share of a tile that the next one shows again, where nothing else is said."""

EDGE = 0.01
"""Distance from an inner edge, in tile sides, within which a box touches it."""

MAX_PIECES = 1000
"""Cut boxes of an image that are looked at, the best ones: every pair of them is compared."""

_ALIKE, _INSIDE = 0.5, 0.5


def lay_tiles(size: Size, tile: int, overlap: float) -> Tensor:
    """Tiles that cover an image, row by row.

    Args:
        size: ``(height, width)`` of the image in pixels.
        tile: side of a tile in pixels.
        overlap: share of a tile that the next one shows again, 0-0.9; more where the last tile of
            a row ends at the image's edge.

    Returns:
        ``[T, 4]`` int64 xyxy; none where one tile would cover the image.
    """
    if max(size) <= tile:
        return torch.zeros(0, 4, dtype=torch.int64)
    rows, columns = (_starts(side, tile, overlap) for side in size)
    return torch.tensor(
        [(x, y, min(x + tile, size[1]), min(y + tile, size[0])) for y in rows for x in columns]
    )


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along one side: evenly spread, the last one ends where the side does."""
    if side <= tile:
        return [0]
    step = max(1.0, tile * (1 - overlap))
    steps = -int(-(side - tile) // step)
    return [round(i * (side - tile) / steps) for i in range(steps + 1)]


def crop_tiles(image: Tensor, tiles: Tensor) -> list[Tensor]:
    """The pieces of ``[3, H, W]`` that ``[T, 4]`` tiles show, not copied."""
    return [image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in tiles.tolist()]


def merge_tiles(
    whole: Detections,
    parts: Sequence[Detections],
    tiles: Tensor,
    size: Size,
    config: PostprocessConfig,
) -> Detections:
    """The detections of an image from those of the whole of it and of its tiles.

    Args:
        whole: of the whole image, in its pixels.
        parts: of each tile, in the tile's pixels.
        tiles: ``[T, 4]`` xyxy, where the tiles lie in the image.
        size: ``(height, width)`` of the image.
        config: thresholds and limits of the suppression, which is hard.

    Returns:
        Detections in pixels of the image, best first.
    """
    moved = [_move(part, tile) for part, tile in zip(parts, tiles, strict=True)]
    cut = [_is_cut(part.boxes, tile, size) for part, tile in zip(moved, tiles, strict=True)]
    sound = join([whole, *(part[~mask] for part, mask in zip(moved, cut))])
    pieces, seen = _best_pieces([part[mask] for part, mask in zip(moved, cut)], tiles)
    pieces = _put_together(pieces, seen)
    pieces = pieces[~_lies_inside(pieces, sound)]
    return suppress(join([sound, pieces]), config)


def _move(found: Detections, tile: Tensor) -> Detections:
    """From a tile's pixels into the image's; nothing lies outside what the tile has shown."""
    x, y, right, bottom = tile.tolist()
    boxes = clip_boxes(found.boxes, (bottom - y, right - x)) + found.boxes.new_tensor([x, y, x, y])
    return Detections(boxes=boxes, scores=found.scores, labels=found.labels)


def _is_cut(boxes: Tensor, tile: Tensor, size: Size) -> Tensor:
    """``[N]`` bool: boxes that touch an edge of their tile which is none of the image."""
    corners = tile.to(boxes.dtype)
    image = boxes.new_tensor([0, 0, size[1], size[0]])
    sides = corners[2:] - corners[:2]
    touches = (boxes - corners).abs() <= torch.cat([sides, sides]) * EDGE  # [N, 4]
    return (touches & (corners != image)).any(1)


def _best_pieces(parts: Sequence[Detections], tiles: Tensor) -> tuple[Detections, Tensor]:
    """Cut boxes of all tiles, best first, and the tile of each, ``[N, 4]``."""
    pieces = join(parts)
    order = torch.cat([part.scores for part in parts]).argsort(descending=True, stable=True)
    counts = torch.tensor([len(part) for part in parts])
    seen = tiles.to(pieces.boxes.dtype).repeat_interleave(counts, dim=0)[order]
    return pieces[:MAX_PIECES], seen[:MAX_PIECES]


def _put_together(pieces: Detections, tiles: Tensor) -> Detections:
    """One box around the pieces of each object, with the best score; ``tiles`` is ``[N, 4]``."""
    groups = _connected(_look_alike(pieces, tiles))
    united = []
    for group in groups.unique():
        members = pieces[groups == group]
        box = torch.cat([members.boxes[:, :2].amin(0), members.boxes[:, 2:].amax(0)])
        united.append((box, members.scores.max(), members.labels[0]))
    if not united:
        return pieces
    boxes, scores, labels = (torch.stack(column) for column in zip(*united))
    return Detections(boxes=boxes, scores=scores, labels=labels)


def _look_alike(pieces: Detections, tiles: Tensor) -> Tensor:
    """``[N, N]`` bool: pairs of one class that are alike where both of their tiles look."""
    boxes, labels = pieces.boxes, pieces.labels
    low = torch.maximum(tiles[:, None, :2], tiles[None, :, :2])
    high = torch.minimum(tiles[:, None, 2:], tiles[None, :, 2:])
    shared = torch.cat([low, high.maximum(low)], -1)  # [N, N, 4]
    first = _cut_to(boxes[:, None].expand_as(shared), shared)
    second = _cut_to(boxes[None].expand_as(shared), shared)
    iou = _iou(first, second)
    other_tile = (tiles[:, None] != tiles[None]).any(-1)
    return (iou > _ALIKE) & (labels[:, None] == labels[None]) & other_tile


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU ``[...]`` of boxes ``[..., 4]`` one by one; 0 where they share nothing."""
    shared = box_intersection(a, b)
    return shared / (box_area(a) + box_area(b) - shared).clamp(min=MIN_SIZE)


def _cut_to(boxes: Tensor, limits: Tensor) -> Tensor:
    low, high = limits[..., :2].repeat(1, 1, 2), limits[..., 2:].repeat(1, 1, 2)
    return boxes.maximum(low).minimum(high)


def _connected(pairs: Tensor) -> Tensor:
    """``[N]`` the lowest index that each is connected with, over any number of pairs."""
    groups = torch.arange(len(pairs))
    linked = pairs | torch.eye(len(pairs), dtype=torch.bool)
    while len(pairs):
        lowest = torch.where(linked, groups[None], len(pairs)).amin(1)
        if lowest.equal(groups):
            break
        groups = lowest
    return groups


def _lies_inside(pieces: Detections, sound: Detections) -> Tensor:
    """``[N]`` bool: pieces mostly inside a whole box of their class."""
    inside = box_ioa(pieces.boxes, sound.boxes) > _INSIDE
    same = pieces.labels[:, None] == sound.labels[None]
    return (inside & same).any(1)
