# SPDX-License-Identifier: Apache-2.0
"""From an image file to pixels: the one way, for training, validation and prediction.

The files come from others. Whatever is wrong with one ends as a DataError of one line that names
it; none may hang, take memory that its size in pixels does not ask for, or end the process.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from effdet.data.image_file import (
    FORMATS,
    MAX_BYTES,
    MeteredFile,
    count_scans,
    kind_of,
    name_of,
    read_file,
)
from effdet.data.pixels import image_to_tensor
from effdet.data.stored_image import Size, StoredImage, size_of, turn_upright, turned
from effdet.errors import DataError, one_line
from effdet.files.regular import open_regular
from effdet.settings import MAX_PIXELS

MAX_SCANS = 200
"""Scans of a JPEG. Encoders write about 10; each costs a pass over all pixels."""

_ORIENTATION_TAG = 0x0112
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF

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
    return decode_content(read_file(path), name_of(path), max_pixels, note=note)


def decode_content(
    content: bytes, name: str, max_pixels: int = MAX_PIXELS, *, note: Note = ignore_notes
) -> Tensor:
    """As :func:`decode_image`, of a file's content, which messages call ``name``."""
    return _open(content, name, max_pixels, note).upright()


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
    stored = _open(read_file(path), name_of(path), max_pixels, note)
    image, orientation = stored.pixels, stored.orientation
    upright = turned(size_of(image), orientation)
    if size == upright:
        return turn_upright(image, orientation)
    if size == size_of(image):
        return image
    raise DataError(
        f"{name_of(path)}: the image is {upright[1]} x {upright[0]} (width x height) but the "
        f"annotation file records {size[1]} x {size[0]}; correct the file's width and height"
    )


def inspect_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> StoredImage:
    """An image file and what is in its header; arguments and errors as :func:`decode_image`."""
    return _open(read_file(path), name_of(path), max_pixels, ignore_notes)


def _open(content: bytes, name: str, max_pixels: int, note: Note) -> StoredImage:
    """The stored pixels, and what else is known of them."""
    with _pillow_image(name, content, max_pixels) as image:
        _check_header(image, content, max_pixels)
        mode = image.mode
        image.load()
        _check_size(*image.size, max_pixels)  # of what was in fact decoded
        if has_more := _has_more(image):
            note(f"{name}: the first image of several in this {image.format} was taken")
        return StoredImage(
            pixels=image_to_tensor(image),
            # After load(): Pillow turns TIFF files itself and then removes the tag.
            orientation=_orientation(image),
            mode=mode,
            has_more=has_more,
            content=content,
        )


def read_size(path: str | Path) -> Size:
    """``(height, width)`` of an image the right way up, from its header: no pixel is decoded.

    Raises:
        DataError: as :func:`decode_image`, where the header says as much.
    """
    with open_regular(path, "image file", DataError, MAX_BYTES) as file:
        start = file.read(_JPEG_HEAD)
        if start.startswith(b"\xff\xd8\xff"):
            with suppress(DataError):  # the head is longer, or something is wrong with it
                return _size_in(path, start)
        return _size_in(path, start + file.read(MAX_BYTES))


def _size_in(path: str | Path, content: bytes) -> Size:
    with _pillow_image(name_of(path), content, MAX_PIXELS) as image:
        size = image.height, image.width
        if image.format == "TIFF" or not any(word in content for word in _EXIF_SIGNS):
            return size  # Pillow gives the size of a TIFF file as it will turn it
        return turned(size, _orientation(image))


_JPEG_HEAD = 1 << 16
"""Bytes in which a JPEG mostly says its size and how it is turned."""

_EXIF_SIGNS = (b"Exif\0\0", b"eXIf", b"EXIF", b"Raw profile type exif")
"""In JPEG, PNG and WebP; looking for the block of a PNG file without one decodes it."""


@contextmanager
def _pillow_image(name: str, content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image in ``content``; whatever Pillow raises is a DataError that begins with ``name``."""
    try:
        with silent_pillow(), Image.open(MeteredFile(content), formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: {kind_of(content)}") from error
    except Image.DecompressionBombError as error:
        reason = f"more than --max-pixels {max_pixels}: {one_line(error)}"
        raise DataError(f"{name}: cannot decode the image: {reason}") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them raise
        reason = one_line(error) or type(error).__name__
        raise DataError(f"{name}: cannot decode the image: {reason}") from error


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
def silent_pillow() -> Iterator[None]:
    """Keeps Pillow's warnings quiet; around many images it costs less than around each."""
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()
