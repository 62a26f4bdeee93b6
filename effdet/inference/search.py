# SPDX-License-Identifier: Apache-2.0
"""How images are looked at: once, in several views, or in tiles as well."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from effdet.data.transforms import size_of
from effdet.inference.fusion import limit, weighted_box_fusion
from effdet.inference.reading import in_batches
from effdet.inference.tiles import crop_tiles, lay_tiles, merge_tiles
from effdet.postprocess import Postprocessing
from effdet.settings import PostprocessConfig
from effdet.structures import ClassMap, Detections

Size = tuple[int, int]

SCALES = (1.0, 0.75, 1.25)
"""Sizes of the network input that test-time augmentation looks at, relative to the model's own."""

WEAKEST = 0.05
"""Score from which a detection of one view counts: several weak ones may make a sure one."""

STEP = 64
"""Sides of other input sizes are the next multiples of so many pixels."""

Detect = Callable[[Sequence[Tensor], Postprocessing, Size, bool], list[Detections]]
"""Images, post-processing, input size and whether to mirror -> detections of each, as one batch."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at an image.

    Attributes:
        size: ``(height, width)`` of the network input.
        flip: whether the image is mirrored left to right.
        process: post-processing with the anchors of that size.
    """

    size: Size
    flip: bool = False
    process: Postprocessing


@dataclass(frozen=True, kw_only=True)
class Search:
    """Finds objects in images of any sizes, in the same way in each.

    Attributes:
        detect: runs one batch.
        process: thresholds and limits of the result.
        views: the ways to look; one of them is plain prediction.
        tile: side in pixels of the tiles that are looked at besides the whole; 0 for none.
        tile_overlap: share of a tile that the next one shows again.
        batch_size: images that go through the model at once.
    """

    detect: Detect
    process: Postprocessing
    views: Sequence[View]
    tile: int
    tile_overlap: float
    batch_size: int

    def __call__(self, images: Sequence[Tensor]) -> list[Detections]:
        """Detections of ``[3, H, W]`` uint8 images, in pixels of each, on the CPU."""
        if not self.tile:
            return list(self._look(images))
        return [self._in_tiles(image) for image in images]

    def _in_tiles(self, image: Tensor) -> Detections:
        tiles = lay_tiles(size_of(image), self.tile, self.tile_overlap)
        whole, *parts = self._look([image, *crop_tiles(image, tiles)])
        if not parts:
            return whole
        return merge_tiles(whole, parts, tiles, size_of(image), self.process.config)

    def _look(self, images: Iterable[Tensor]) -> Iterator[Detections]:
        """Each image by itself, in all views."""
        for batch in in_batches(images, self.batch_size):
            looks = [self.detect(batch, v.process, v.size, v.flip) for v in self.views]
            if len(looks) == 1:
                yield from looks[0]
            else:
                for parts in zip(*looks):
                    yield limit(weighted_box_fusion(parts), self.process.config)


def build_views(
    size: Size,
    process: Postprocessing,
    build: Callable[[Size, PostprocessConfig, ClassMap | None], Postprocessing],
    augment: bool,
) -> list[View]:
    """The views of a search.

    Test-time augmentation looks at the image and its mirror image at each of :data:`SCALES`, six
    looks in all, each with its own suppression, which
    :func:`~effdet.inference.fusion.weighted_box_fusion` puts together.

    Args:
        size: ``(height, width)`` of the model's own input.
        process: post-processing of plain prediction.
        build: gives post-processing for another input size.
        augment: whether to look in several ways.
    """
    if not augment:
        return [View(size=size, process=process)]
    threshold = min(process.config.score_threshold, WEAKEST)
    weak = replace(process.config, score_threshold=threshold)
    views = []
    for scale in SCALES:
        seen = _scaled(size, scale)
        look = build(seen, weak, process.class_map)
        views += [View(size=seen, flip=flip, process=look) for flip in (False, True)]
    return views


def _scaled(size: Size, scale: float) -> Size:
    if scale == 1:
        return size
    height, width = (math.ceil(side * scale / STEP) * STEP for side in size)
    return height, width


def mirror(found: Detections, width: int) -> Detections:
    """Detections of a mirrored image where they are in the image itself, ``width`` pixels wide."""
    x1, y1, x2, y2 = found.boxes.unbind(-1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=-1)
    return Detections(boxes=boxes, scores=found.scores, labels=found.labels)
