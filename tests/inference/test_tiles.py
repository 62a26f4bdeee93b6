# SPDX-License-Identifier: Apache-2.0
"""Tiles, with a detector that sees every coloured rectangle that is large enough for it."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from effdet import cli
from effdet.errors import UsageError
from effdet.inference import Detector
from effdet.inference.search import Search, View
from effdet.inference.tiles import lay_tiles, merge_tiles
from effdet.postprocess import Postprocess
from effdet.settings import PostprocessConfig
from effdet.settings.values import require_tiles
from effdet.structures import Detections

from .conftest import picture
from .test_fusion import Row, detections

NETWORK = (200, 200)
SMALLEST = 5
"""Pixels of the network's input that a side must have to be seen."""

Box = tuple[int, int, int, int]


def paint(size: tuple[int, int], boxes: Sequence[Box]) -> Tensor:
    """``[3, H, W]``: each box red, with its number in the blue channel."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[0, y1:y2, x1:x2] = 255
        image[2, y1:y2, x1:x2] = number
    return image


def see(
    images: Sequence[Tensor], process: Postprocess, size: tuple[int, int], flip: bool
) -> list[Detections]:
    """What is painted; scores fall with the number, odd numbers are of class 1."""
    results = []
    for image in images:
        scale = min(size[0] / image.shape[1], size[1] / image.shape[2])
        boxes, numbers = [], []
        for number in image[2][image[0] == 255].unique().tolist():
            rows, columns = ((image[0] == 255) & (image[2] == number)).nonzero().unbind(1)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            if min(box[2] - box[0], box[3] - box[1]) * scale >= SMALLEST:
                boxes.append(torch.stack(box).float())
                numbers.append(number)
        results.append(
            Detections(
                boxes=torch.stack(boxes) if boxes else torch.zeros(0, 4),
                scores=0.9 - 0.01 * torch.tensor(numbers),
                labels=torch.tensor(numbers, dtype=torch.int64) % 2,
            )
        )
    return results


def search(tile: int, overlap: float = 0.2, **settings: float) -> Search:
    config = PostprocessConfig(nms="hard", score_threshold=0.05, **settings)
    process = Postprocess(anchors=torch.zeros(0, 4), config=config)
    views = [View(size=NETWORK, process=process)]
    return Search(
        detect=see, process=process, views=views, tile=tile, tile_overlap=overlap, batch_size=4
    )


def found_in(image: Tensor, tile: int, overlap: float = 0.2, **settings: float) -> list[list[int]]:
    """Boxes in the order of their numbers."""
    (found,) = search(tile, overlap, **settings)([image])
    return found.boxes.round().int().tolist()


SEAMS: list[Box] = [
    (x, y, x + 10, y + 12)
    for y in (0, 155, 164, 200, 330, 388)
    for x in (0, 150, 160, 166, 195, 350, 560, 640)
    if not (x == 166 and y == 164)
]
"""Small things in and about the seams of tiles of 200 pixels in an image of 400 x 650."""


@pytest.mark.parametrize("overlap", [0.1, 0.2, 0.35, 0.5])
def test_small_objects_near_the_seams_are_found_once_and_whole(overlap: float) -> None:
    apart = [b for i, b in enumerate(SEAMS) if all(not touch(b, c) for c in SEAMS[:i])]
    assert len(apart) > 25
    image = paint((400, 650), apart)
    assert found_in(image, 200, overlap) == [list(box) for box in apart]
    assert found_in(image, 0) == []  # too small for the network to see in the whole


def touch(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def test_pieces_of_an_object_longer_than_the_overlap_are_put_together() -> None:
    long: list[Box] = [(20, 30, 640, 44), (300, 60, 312, 395), (100, 150, 230, 170)]
    image = paint((400, 650), long)
    assert found_in(image, 200) == [list(box) for box in long]


def test_an_object_over_a_corner_of_four_tiles_is_one() -> None:
    tiles = lay_tiles((360, 360), 200, 0.2)
    assert len(tiles) == 4
    box = (110, 120, 250, 240)
    assert found_in(paint((360, 360), [box]), 200) == [list(box)]


def test_pieces_go_where_the_whole_image_has_shown_the_object() -> None:
    box = (20, 20, 380, 390)
    image = paint((400, 400), [box])
    assert found_in(image, 0) == [list(box)]
    assert found_in(image, 120) == [list(box)]


def test_objects_of_two_classes_or_side_by_side_are_not_put_together() -> None:
    side_by_side: list[Box] = [(130, 20, 165, 40), (130, 100, 165, 120), (168, 20, 220, 40)]
    image = paint((200, 360), side_by_side)
    assert found_in(image, 200) == [list(box) for box in side_by_side]


def merged(whole: list[Row], left: list[Row], right: list[Row]) -> list[list[float]]:
    """Two tiles of 100 pixels in an image of 100 x 180; rows of the tiles in their own pixels."""
    tiles = torch.tensor([[0, 0, 100, 100], [80, 0, 180, 100]])
    config = PostprocessConfig(nms="hard", score_threshold=0.05, iou_threshold=0.7)
    parts = [detections(*left), detections(*right)]
    found = merge_tiles(detections(*whole), parts, tiles, (100, 180), config)
    return [[*box, label] for box, label in zip(found.boxes.tolist(), found.labels.tolist())]


def test_alike_pieces_of_one_class_from_two_tiles_are_one() -> None:
    left, right = (60, 10, 100, 30, 0.9, 0), (0, 10, 50, 30, 0.8, 0)
    assert merged([], [left], [right]) == [[60, 10, 130, 30, 0]]
    assert len(merged([], [left], [(0, 10, 50, 30, 0.8, 1)])) == 2
    assert len(merged([], [left], [(0, 40, 50, 60, 0.8, 0)])) == 2
    assert len(merged([], [left, (65, 10, 100, 45, 0.8, 0)], [])) == 2  # seen as two by one tile


def test_the_edge_of_the_image_cuts_nothing() -> None:
    whole = (0, 0, 60, 100, 0.9, 0)
    at_the_edge, at_the_seam = (0, 20, 20, 40, 0.8, 0), (40, 20, 100, 40, 0.7, 0)
    assert merged([whole], [at_the_edge], []) == [[*whole[:4], 0], [*at_the_edge[:4], 0]]
    assert merged([(30, 0, 110, 90, 0.9, 0)], [at_the_seam], []) == [[30, 0, 110, 90, 0]]


def test_one_tile_that_covers_the_image_gives_what_the_whole_gives(detector: Detector) -> None:
    image = picture(("red", (40, 30, 120, 90)), ("blue", (150, 20, 190, 130)), size=(200, 140))
    whole = detector.predict(image)
    detector.model.batches.clear()
    tiled = detector.predict(image, tile=200)
    assert detector.model.batches == [1]
    assert len(whole) == 2
    assert torch.equal(tiled.boxes, whole.boxes)
    assert torch.equal(tiled.scores, whole.scores)


def test_tiles_show_a_detector_what_the_whole_does_not(detector: Detector) -> None:
    image = picture(("red", (500, 300, 560, 345)), ("blue", (40, 900, 100, 960)), size=(1200, 1000))
    found = detector.predict(image, tile=256)
    assert sorted(found.labels.tolist()) == [0, 2]
    assert_close(found.boxes[0], torch.tensor([500.0, 300, 560, 345]), atol=5, rtol=0)


def test_batches_of_images_in_tiles_equal_single_ones() -> None:
    images = [paint((400, 650), SEAMS[:5]), paint((90, 90), [(5, 5, 30, 30)]), paint((50, 700), [])]
    together = search(200)(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = search(200)([image])
        assert torch.equal(found.boxes, alone.boxes)
    assert [len(found) > 0 for found in together] == [True, True, False]


def test_the_limits_hold_after_merging() -> None:
    image = paint((400, 650), [(x, 100, x + 10, 112) for x in range(0, 640, 20)])
    assert len(found_in(image, 200)) == 32
    assert found_in(image, 200, max_detections=3) == [[x, 100, x + 10, 112] for x in (0, 20, 40)]


@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [((1000, 700), 256, 0.2), ((33, 900), 64, 0.0), ((257, 256), 256, 0.9), ((65, 65), 64, 0.5)],
)
def test_tiles_cover_the_image_and_overlap_as_asked(
    size: tuple[int, int], tile: int, overlap: float
) -> None:
    tiles = lay_tiles(size, tile, overlap)
    seen = torch.zeros(size, dtype=torch.int64)
    for x1, y1, x2, y2 in tiles.tolist():
        seen[y1:y2, x1:x2] += 1
        assert (x2 - x1, y2 - y1) == (min(tile, size[1]), min(tile, size[0]))
    assert seen.min() >= 1
    columns = tiles[:, 0].unique().tolist()
    assert all(tile - (b - a) >= tile * overlap - 1 for a, b in pairwise(columns))


def test_an_image_as_large_as_a_tile_has_none() -> None:
    assert lay_tiles((256, 256), 256, 0.2).shape == (0, 4)
    assert len(lay_tiles((256, 257), 256, 0.2)) == 2


@pytest.mark.parametrize(
    ("tile", "overlap", "text"),
    [(-1, 0.2, "tile must be"), (31, 0.2, "at least 32"), (64, 0.95, "tile_overlap must be in")],
)
def test_tiles_that_cannot_be_laid_are_refused(tile: int, overlap: float, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        require_tiles(tile, overlap)


def test_a_wrong_tile_is_named_as_the_flag_that_it_came_with() -> None:
    words = ["predict", "a.jpg", "--weights", "w.pt", "--output", "o", "--tile"]
    with pytest.raises(UsageError, match=r"--tile must be at least 32 pixels, .* got 10"):
        cli.run_command([*words, "10"])
    with pytest.raises(UsageError, match=r"--tile-overlap must be in \[0, 0.9\], got 2"):
        cli.run_command([*words, "64", "--tile-overlap", "2"])
