# SPDX-License-Identifier: Apache-2.0
"""From an image file to pixels: the one way, for training, validation and prediction."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from effdet.errors import DataError, one_line

TRANSPARENT_BACKGROUND = (255, 255, 255)
"""RGB that transparent pixels lie on, white as in a viewer; hidden colours must not show."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(path: str | Path) -> Tensor:
    """Pixels of an image file the right way up.

    Grayscale, palette, CMYK and 16-bit images become 8-bit RGB; transparent pixels lie on
    :data:`TRANSPARENT_BACKGROUND`; of an animation the first frame is taken.

    Returns:
        ``[3, H, W]`` uint8 RGB. In memory the channels of a pixel are neighbours, which is what
        the bilinear resize is fastest on.

    Raises:
        DataError: for a missing, truncated or undecodable file, with the path and the reason.
    """
    image, orientation = _open(path)
    return _to_tensor(_upright(image, orientation))


def decode_annotated(path: str | Path, size: tuple[int, int]) -> Tensor:
    """Pixels of an image file in the orientation that its annotations were drawn in.

    The EXIF orientation is applied where the result has the recorded size. Where only the stored,
    unrotated pixels have it, the boxes were drawn on those and they are returned.

    Args:
        path: the image file.
        size: ``(height, width)`` in pixels that the annotation file records.

    Returns:
        ``[3, H, W]`` uint8 RGB with ``(H, W) == size``.

    Raises:
        DataError: as :func:`decode_image`, and where no orientation has the recorded size.
    """
    image, orientation = _open(path)
    upright = _upright(image, orientation)
    for candidate in (upright, image):
        if (candidate.height, candidate.width) == size:
            return _to_tensor(candidate)
    raise DataError(
        f"{path}: the image is {upright.width} x {upright.height} (width x height) but the "
        f"annotation file records {size[1]} x {size[0]}; correct the file's width and height"
    )


def _open(path: str | Path) -> tuple[Image.Image, int]:
    """The stored pixels as an 8-bit RGB image, and the EXIF orientation still to be applied."""
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{path}: not a regular file")  # reading a pipe would wait for ever
    try:
        with Image.open(path) as image:
            image.load()
            # After load(): Pillow turns TIFF files itself and then removes the tag.
            return _to_rgb(image), _orientation(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image in a format that Pillow can read") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them raise
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"{path}: cannot decode the image: {reason}") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8; 1, upright, where the EXIF block is missing or damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF must not cost an image whose pixels are sound
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _sixteen_to_eight_bit(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, TRANSPARENT_BACKGROUND)
        return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _sixteen_to_eight_bit(image: Image.Image) -> Image.Image:
    """Gray values 0-65535 scaled to 0-255 (Pillow's own conversion cuts all above 255 to white)."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"gray values {values.min()} to {values.max()} are not 16-bit")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
