# SPDX-License-Identifier: Apache-2.0
"""From an image file to pixels: the one way, for training, validation and prediction.

The files come from others. Whatever is wrong with one ends as a DataError of one line that names
it; none may hang, take memory that its size in pixels does not ask for, or end the process.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from effdet.data.image_file import FORMATS, MeteredFile, count_scans, kind_of, name_of, read_file
from effdet.data.pixels import image_to_tensor
from effdet.errors import DataError, one_line
from effdet.settings import MAX_PIXELS

MAX_SCANS = 200
"""Scans of a JPEG. Encoders write about 10; each costs a pass over all pixels."""

_ORIENTATION_TAG = 0x0112
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF

Size = tuple[int, int]

Note = Callable[[str], object]
"""Takes a line about an image that was decoded: what of the file the pixels do not show."""


def ignore_notes(text: str) -> None:
    """A :data:`Note` that nobody reads."""


def decode_image(
    path: str | Path, max_pixels: int = MAX_PIXELS, *, note: Note = ignore_notes
) -> Tensor:
    """Pixels of an image file the right way up.

    JPEG, PNG, WebP, GIF, TIFF and BMP of any mode become 8-bit RGB as
    :func:`~effdet.data.pixels.image_to_tensor` says; of an animation or of several pages the first
    is taken.

    Args:
        path: the image file, a regular one of at most :data:`MAX_BYTES`.
        max_pixels: a larger image is refused before it is decoded.
        note: called with a line where the file holds more than was taken.

    Returns:
        ``[3, H, W]`` uint8 RGB.

    Raises:
        DataError: for a file that is missing, damaged, too large or of another kind, with its path
            and the reason.
    """
    image, orientation = _open(path, max_pixels, note)
    return _upright(image, orientation)


def decode_annotated(
    path: str | Path,
    size: tuple[int, int],
    max_pixels: int = MAX_PIXELS,
    *,
    note: Note = ignore_notes,
) -> Tensor:
    """Pixels of an image file in the orientation that its annotations were drawn in.

    The EXIF orientation is applied where the result has the recorded size. Where only the stored,
    unrotated pixels have it, the boxes were drawn on those and they are returned.

    Args:
        path: the image file.
        size: ``(height, width)`` in pixels that the annotation file records.
        max_pixels: a larger image is refused before it is decoded.
        note: as :func:`decode_image`.

    Returns:
        ``[3, H, W]`` uint8 RGB with ``(H, W) == size``.

    Raises:
        DataError: as :func:`decode_image`, and where no orientation has the recorded size.
    """
    image, orientation = _open(path, max_pixels, note)
    upright = _turned(_size_of(image), orientation)
    if size == upright:
        return _upright(image, orientation)
    if size == _size_of(image):
        return image
    raise DataError(
        f"{name_of(path)}: the image is {upright[1]} x {upright[0]} (width x height) but the "
        f"annotation file records {size[1]} x {size[0]}; correct the file's width and height"
    )


def _open(path: str | Path, max_pixels: int, note: Note) -> tuple[Tensor, int]:
    """The stored pixels, ``[3, H, W]`` uint8 RGB, and the EXIF orientation still to be applied."""
    content = read_file(path)
    try:
        with _silent_pillow(), Image.open(MeteredFile(content), formats=FORMATS) as image:
            _check_header(image, content, max_pixels)
            image.load()
            _check_size(*image.size, max_pixels)  # of what was in fact decoded
            pixels = image_to_tensor(image)
            # After load(): Pillow turns TIFF files itself and then removes the tag.
            orientation = _orientation(image)
            if _has_more(image):
                note(
                    f"{name_of(path)}: the first image of several in this {image.format} was taken"
                )
            return pixels, orientation
    except UnidentifiedImageError as error:
        raise DataError(f"{name_of(path)}: {kind_of(content)}") from error
    except Image.DecompressionBombError as error:
        reason = f"more than --max-pixels {max_pixels}: {one_line(error)}"
        raise DataError(f"{name_of(path)}: cannot decode the image: {reason}") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them raise
        reason = one_line(error) or type(error).__name__
        raise DataError(f"{name_of(path)}: cannot decode the image: {reason}") from error


def _check_header(image: Image.Image, content: bytes, max_pixels: int) -> None:
    """Refuse before decoding what would cost more memory or time than an image is worth."""
    _check_size(*image.size, max_pixels)
    if image.format == "WEBP" and (image.mode == "RGBA" or _has_more(image)):
        # Its decoder holds two canvases beside the image.
        _check_size(*image.size, max_pixels // 2, "half of --max-pixels (WebP needs more memory),")
    tags = getattr(image, "tag_v2", {})
    if _TILE_WIDTH in tags and _TILE_LENGTH in tags:
        _check_size(tags[_TILE_WIDTH], tags[_TILE_LENGTH], max_pixels)
    if image.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > MAX_SCANS:
        scans = count_scans(content)
        if scans > MAX_SCANS:
            raise ValueError(f"a JPEG of {scans} scans; at most {MAX_SCANS} are decoded")


def _check_size(width: int, height: int, max_pixels: int, called: str = "--max-pixels") -> None:
    if width * height > max_pixels:
        raise ValueError(f"{width} x {height} pixels, more than {called} {max_pixels}")


def _has_more(image: Image.Image) -> bool:
    """Whether the file holds other frames or pages; of a phone's JPEG they are its extras."""
    if image.format == "MPO":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame must not cost the first
        return False


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8; 1, upright, where the EXIF block is missing or damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF must not cost an image whose pixels are sound
        return 1


def _size_of(image: Tensor) -> Size:
    return image.shape[1], image.shape[2]


def _turned(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if orientation in _TRANSPOSED else size


def _upright(image: Tensor, orientation: int) -> Tensor:
    """``[3, H, W]`` turned as EXIF says, again with the channels of a pixel as neighbours."""
    if orientation not in _TRANSPOSED | _FLIPPED.keys():
        return image
    rows = image.permute(1, 2, 0)
    if orientation in _TRANSPOSED:
        rows = rows.transpose(0, 1)
    return rows.flip(_FLIPPED[orientation]).contiguous().permute(2, 0, 1)


_TRANSPOSED = {5, 6, 7, 8}
_FLIPPED = {2: [1], 3: [0, 1], 4: [0], 5: [], 6: [1], 7: [0, 1], 8: [0]}
"""Axes, height and width, of which the order is reversed; after the transposition."""


class _Silence:
    """Pillow's warnings are kept quiet while any thread decodes: they name no file.

    Those about size are an error here anyway, those about metadata of no matter.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_SILENCE = _Silence()


@contextmanager
def _silent_pillow() -> Iterator[None]:
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()
