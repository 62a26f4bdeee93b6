# SPDX-License-Identifier: Apache-2.0
"""Boxes: of the right form, inside their images, no two the same, none too small to be seen."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from effdet.annotations import fit_boxes
from effdet.check.findings import Example, Findings
from effdet.check.reading import Split

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Size = tuple[int, int]

MOST = 0.98
"""Part of a file's boxes that must fit another form for the file to be taken for it."""

STICKING_OUT = 0.3
"""Part of them that must stick out of their images as they are."""

OVERHANG = 1.0
"""Pixels that a box may stick out: many programs count pixels from 1."""

TINY = 4.0
"""Pixels of the network's input, half a cell of the finest level."""

LONG = 10.0
WHOLE = 0.98
CROWDED = 100
"""Boxes that COCO's evaluation counts, and detectors find by default."""


def check_boxes(split: Split, image_size: Size, findings: Findings) -> Split:
    """Look at all boxes of a split.

    Args:
        split: as it was read.
        image_size: ``(height, width)`` of the network's input.
        findings: collects.

    Returns:
        The split with boxes in the form that they were meant in.
    """
    split = _as_meant(split, findings)
    sizes = _image_sides(split)
    _check_places(split, sizes, findings)
    _check_shapes(split, sizes, image_size, findings)
    _check_copies(split, findings)
    _check_areas(split, findings)
    _check_images(split, findings)
    return split


def _image_sides(split: Split) -> Floats:
    """``[M, 2]`` width and height of the image of each box; 0 where unknown."""
    sides: Floats = split.table.sizes[split.table.image_index][:, ::-1].astype(np.float64)
    return sides


def _as_meant(split: Split, findings: Findings) -> Split:
    """The split with boxes as x, y, width, height in pixels, where they are of another form."""
    boxes, sides = split.table.boxes, _image_sides(split)
    known: Mask = np.all(sides > 0, axis=1)
    if are_corners(boxes[known], sides[known]):
        meant = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        id_ = "boxes.xyxy"
    elif are_fractions(boxes[known], sides[known]):
        meant = boxes * np.where(known[:, None], np.tile(sides, 2), 1)
        id_ = "boxes.fractions"
    else:
        return split
    rows = np.flatnonzero(known)
    as_written = [split.describe_box(int(row)) for row in rows[:100]]
    table = replace(split.table, boxes=meant, areas=meant[:, 2:].prod(axis=1))
    split = replace(split, table=table)
    places = {int(row): text for row, text in zip(rows, as_written, strict=False)}
    findings.add_rows(id_, split.name, rows, lambda row: split.box_example(row, places[row]))
    return split


def are_corners(boxes: Floats, sides: Floats) -> bool:
    """Whether ``[N, 4]`` boxes are rather x1, y1, x2, y2 than x, y, width, height.

    As corners nearly all of them are boxes within their images, and as they should be many stick
    out, which is not so of any real set of the right form.
    """
    if len(boxes) < 3:
        return False
    start, end = boxes[:, :2], boxes[:, 2:]
    fit = np.all((end > start) & (end <= sides + OVERHANG), axis=1)
    out = np.any(start + end > sides + OVERHANG, axis=1)
    return bool(fit.mean() >= MOST and out.mean() >= (STICKING_OUT if len(boxes) < 50 else 0.1))


def are_fractions(boxes: Floats, sides: Floats) -> bool:
    """Whether ``[N, 4]`` boxes are parts of their images instead of pixels."""
    if len(boxes) < 3 or not np.all(sides > 2):
        return False
    within = np.all((boxes >= 0) & (boxes <= 1), axis=1) & np.any(boxes % 1 != 0, axis=1)
    return bool(within.mean() >= MOST)


def _check_places(split: Split, sides: Floats, findings: Findings) -> None:
    """Boxes without area, outside, partly outside."""
    repaired = fit_boxes(split.table).repaired
    known = sides.all(axis=1)
    _add(split, "boxes.empty", repaired["box-without-area"], findings)
    _add(split, "boxes.outside", repaired["box-outside"] & known, findings)
    boxes = split.table.boxes
    ends = boxes[:, :2] + boxes[:, 2:]
    overhang = np.maximum(-boxes[:, :2], ends - sides).max(axis=1, initial=0)
    clipped = repaired["box-clipped"] & known & (overhang > OVERHANG)
    _add(split, "boxes.clipped", clipped, findings)


def _check_shapes(split: Split, sides: Floats, image_size: Size, findings: Findings) -> None:
    """Boxes that are too small, too long, or as large as their image."""
    size = split.table.boxes[:, 2:]
    usable = sound_boxes(split) & sides.all(axis=1)
    scale = letterbox_scales(sides, image_size)
    least = size.min(axis=1) * scale
    _add(split, "boxes.tiny", usable & (least < TINY), findings)
    ratio = size.max(axis=1) / np.maximum(size.min(axis=1), 1e-9)
    _add(split, "boxes.extreme_shape", usable & (ratio > LONG), findings)
    share = size.prod(axis=1) / np.maximum(sides.prod(axis=1), 1)
    _add(split, "boxes.whole_image", usable & (share >= WHOLE), findings)


def sound_boxes(split: Split) -> Mask:
    """``[M]``: boxes with an area that are no crowd regions."""
    mask: Mask = np.all(split.table.boxes[:, 2:] > 0, axis=1) & ~split.table.crowd
    return mask


def letterbox_scales(sides: Floats, image_size: Size) -> Floats:
    """``[M]``: what images of ``sides`` (width, height) are scaled by to fit the input."""
    output = np.array(image_size[::-1], np.float64)
    scales: Floats = (output / np.maximum(sides, 1)).min(axis=1)
    return scales


def _check_copies(split: Split, findings: Findings) -> None:
    """The same box twice, of the same category or of another one."""
    table = split.table
    rows = np.flatnonzero(sound_boxes(split))
    halves = (table.boxes[rows] * 2).round()
    keys = (*halves.T[::-1], table.image_index[rows])
    order = np.lexsort((table.category_index[rows], *keys))
    same = np.ones(max(len(rows) - 1, 0), bool)
    for key in keys:
        same &= key[order[1:]] == key[order[:-1]]
    category = table.category_index[rows][order]
    alike = category[1:] == category[:-1]
    for id_, pairs in (("boxes.duplicate", same & alike), ("boxes.two_classes", same & ~alike)):
        places = np.flatnonzero(pairs)
        first = dict(zip(rows[order[1:]][places].tolist(), rows[order[:-1]][places], strict=True))

        def describe(row: int, first: dict[int, np.int64] = first) -> Example:
            other = int(first[row])
            name = table.category_names[int(table.category_index[other])]
            also = f"annotation {table.ids[other]}" if table.where is None else table.where(other)
            text = f"{split.describe_box(row)}, as {also} ({name})"
            return split.box_example(row, text)

        findings.add_rows(id_, split.name, sorted(first), describe)


def _check_areas(split: Split, findings: Findings) -> None:
    table = split.table
    own = table.boxes[:, 2:].prod(axis=1)
    # Masks may touch the pixels that a box ends in.
    room = own + table.boxes[:, 2:].sum(axis=1) * 2 + 4
    rows = np.flatnonzero(sound_boxes(split) & (table.areas > 1.05 * room))
    findings.add_rows(
        "boxes.area_too_large",
        split.name,
        rows,
        lambda row: split.box_example(
            row, f"{split.describe_box(row)}, area {table.areas[row]:g} for {own[row]:g}"
        ),
    )


def _check_images(split: Split, findings: Findings) -> None:
    """Images without boxes, and with very many."""
    counts = boxes_by_image(split)
    empty = np.flatnonzero(counts == 0)
    describe = split.image_example
    findings.add_rows(
        "images.without_boxes", split.name, empty, lambda image: describe(image, "no box")
    )
    if len(empty) * 2 > len(counts) and split.name != "test":
        text = f"{len(empty):,} of {len(counts):,} images"
        example = Example(split=split.name, text=text)
        findings.add("images.mostly_empty", split.name, [example], 1)
    crowded = np.flatnonzero(counts > CROWDED)
    findings.add_rows(
        "images.crowded",
        split.name,
        crowded,
        lambda image: describe(image, f"{counts[image]} boxes"),
    )


def boxes_by_image(split: Split) -> NDArray[np.int64]:
    """``[N]``: how many boxes each image has, crowd regions included."""
    table = split.table
    return np.bincount(table.image_index, minlength=len(table.image_ids))


def _add(split: Split, id_: str, mask: Mask, findings: Findings) -> None:
    findings.add_rows(id_, split.name, np.flatnonzero(mask), split.box_example)
