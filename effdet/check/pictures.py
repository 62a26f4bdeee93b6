# SPDX-License-Identifier: Apache-2.0
"""Every image decoded once: damaged, turned, of another size than recorded, odd."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet import distributed
from effdet.bars import Bar
from effdet.check.findings import Findings
from effdet.check.likeness import THUMBNAIL, Bytes, perceptual_hash
from effdet.check.reading import Split
from effdet.data.image_file import is_cut_off, read_file
from effdet.data.images import inspect_image
from effdet.drawing import to_picture
from effdet.errors import DataError, one_line

Size = tuple[int, int]

TINY = 32
"""Pixels of a side."""

LONG = 5.0
UNIFORM = 4
"""Levels between the darkest and the brightest pixel of a thumbnail, of 255."""

PLAIN_MODES = {"RGB", "L", "P"}
AT_ONCE = 4
"""Images a thread that are handed out before the first of them is done."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImage:
    """What is kept of an image that was decoded.

    Attributes:
        error: why it could not be, empty where it could.
        cut_off: whether the file ends before its end.
        digest: of the file, empty where there was an error.
        mode: Pillow's word for the kind of pixels.
        size: ``(height, width)`` as stored.
        upright_size: the right way up.
        orientation: EXIF's, 1-8.
        has_more: whether there are other frames.
        uniform: whether it is of one colour.
        hash: perceptual hash, 64 bits.
        thumbnail: ``[16, 16, 3]`` uint8 RGB.
    """

    error: str = ""
    cut_off: bool = False
    digest: bytes = b""
    mode: str = ""
    size: Size = (0, 0)
    upright_size: Size = (0, 0)
    orientation: int = 1
    has_more: bool = False
    uniform: bool = False
    hash: int = 0
    thumbnail: Bytes | None = None


DecodedImages = dict[int, DecodedImage]
"""By the position of the image in its split."""


def look_at(path: Path, max_pixels: int) -> DecodedImage:
    """What an image file is."""
    try:
        stored = inspect_image(path, max_pixels)
    except DataError as error:
        return DecodedImage(error=one_line(error), cut_off=_is_cut_off(path))
    small = to_picture(stored.upright()).resize((32, 32), Image.Resampling.BOX)
    gray = np.asarray(small.convert("L"), np.float64)
    colours = np.asarray(small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return DecodedImage(
        digest=stored.digest(),
        mode=stored.mode,
        size=stored.size,
        upright_size=stored.upright_size,
        orientation=stored.orientation,
        has_more=stored.has_more,
        uniform=bool(np.ptp(np.asarray(small), axis=(0, 1)).max() < UNIFORM),
        hash=perceptual_hash(gray),
        thumbnail=colours,
    )


def _is_cut_off(path: Path) -> bool:
    try:
        return is_cut_off(read_file(path))
    except DataError:
        return False


def look_at_all(
    splits: Sequence[Split], *, max_pixels: int, workers: int | None
) -> list[DecodedImages]:
    """Decode every image of ``splits`` that is there, several at once.

    Decoders let other threads run, so that threads are enough.
    """
    places = [
        (s, int(row)) for s, split in enumerate(splits) for row in np.flatnonzero(split.present)
    ]
    found: list[DecodedImages] = [{} for _ in splits]
    threads = workers or max(1, distributed.num_workers(None))

    def look(place: tuple[int, int]) -> DecodedImage:
        return look_at(splits[place[0]].path(place[1]), max_pixels)

    with Bar(total=len(places), unit="image", desc="images", disable=None) as progress:
        for (number, row), picture in zip(places, _map(look, places, threads), strict=True):
            found[number][row] = picture
            progress.update()
    return found


def _map(
    look: Callable[[tuple[int, int]], DecodedImage], places: Sequence[tuple[int, int]], threads: int
) -> Iterator[DecodedImage]:
    """``map`` by threads, in order, some ahead; an interruption does not wait for the rest."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(places), threads * AT_ONCE):
                yield from pool.map(look, places[start : start + threads * AT_ONCE])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check_pictures(split: Split, pictures: DecodedImages, findings: Findings) -> None:
    """Look at what was found of the images of a split."""
    sound = {row: picture for row, picture in pictures.items() if not picture.error}
    for row, picture in pictures.items():
        if picture.error:
            id_ = _id_of_error(picture)
            findings.add(id_, split.name, [split.image_example(row, picture.error)], 1)
        else:
            _check_size(split, row, picture, findings)
    for id_, text in _TESTS.items():
        for row, picture in sound.items():
            if found := text(picture):
                findings.add(id_, split.name, [split.image_example(row, found)], 1)


def _id_of_error(picture: DecodedImage) -> str:
    if "--max-pixels" in picture.error:
        return "images.too_large"
    return "images.truncated" if picture.cut_off else "images.unreadable"


def _check_size(split: Split, row: int, picture: DecodedImage, findings: Findings) -> None:
    """The recorded size against that of the pixels, as stored and upright."""
    height, width = split.table.sizes[row].tolist()
    upright, stored = picture.upright_size, picture.size
    turned = f"EXIF orientation {picture.orientation}"
    if not height or (height, width) == upright:
        if picture.orientation != 1:
            unclear = upright == stored or not height
            id_ = "images.exif_unclear" if unclear else "images.exif_turned"
            text = f"{turned}, recorded as {width} x {height}"
            findings.add(id_, split.name, [split.image_example(row, text)], 1)
        return
    if (height, width) == stored:
        text = f"{turned}, but recorded as stored: {width} x {height}"
        findings.add("images.exif_unclear", split.name, [split.image_example(row, text)], 1)
        return
    text = f"recorded as {width} x {height}, is {upright[1]} x {upright[0]}"
    if (width, height) == upright:
        text += ": width and height are exchanged"
    findings.add("images.size_differs", split.name, [split.image_example(row, text)], 1)


def _sides(picture: DecodedImage) -> str:
    return f"{picture.size[1]} x {picture.size[0]} pixels"


def _is_extreme(picture: DecodedImage) -> bool:
    return max(picture.size) > LONG * min(picture.size)


_TESTS: dict[str, Callable[[DecodedImage], str]] = {
    "images.uniform": lambda p: "one colour" if p.uniform else "",
    "images.tiny": lambda p: _sides(p) if min(p.size) < TINY else "",
    "images.extreme_shape": lambda p: _sides(p) if _is_extreme(p) else "",
    "images.odd_mode": lambda p: f"mode {p.mode}" if p.mode not in PLAIN_MODES else "",
    "images.more_frames": lambda p: "several frames" if p.has_more else "",
}
"""What there is to say of a picture by itself; nothing where it is as most are."""


def stack(pictures: DecodedImages) -> tuple[NDArray[np.int64], NDArray[np.uint64], Bytes]:
    """Rows, hashes ``[P]`` and thumbnails ``[P, 16, 16, 3]`` of pictures not of one colour."""
    useful = {r: p for r, p in pictures.items() if p.thumbnail is not None and not p.uniform}
    thumbnails = [p.thumbnail for p in useful.values() if p.thumbnail is not None]
    return (
        np.array(list(useful), np.int64),
        np.array([p.hash for p in useful.values()], np.uint64),
        np.stack(thumbnails) if thumbnails else np.zeros((0, THUMBNAIL, THUMBNAIL, 3), np.uint8),
    )
