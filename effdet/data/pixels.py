# SPDX-License-Identifier: Apache-2.0
"""From the pixels of any Pillow image to 8-bit RGB."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

TRANSPARENT_BACKGROUND = (255, 255, 255)
"""RGB that transparent pixels lie on, white as in a viewer; hidden colours must not show."""

_AT_ONCE = 2_000_000
"""Pixels that are converted at once: of a large image every copy costs a fifth of a gigabyte."""


def image_to_tensor(image: Image.Image) -> Tensor:
    """``[3, H, W]`` uint8 RGB of a Pillow image, as it is stored: nothing is turned.

    - Grayscale, black and white, palette, CMYK, LAB, HSV and YCbCr: as Pillow converts them.
    - Transparent pixels lie on :data:`TRANSPARENT_BACKGROUND`.
    - Integers beyond 8 bits are taken as 0-65535 and scaled, rounded to the nearest.
    - Floating-point grays are scaled by what the largest says: 0-1, else 0-255, else 0-65535.

    In memory the channels of a pixel are neighbours, which the bilinear resize is fastest on.

    Raises:
        ValueError: for integers or floats beyond these ranges, and for an image without pixels.
        Exception: whatever Pillow raises for damaged pixels that are read only now.
    """
    image.load()  # which may change its mode
    width, height = image.size
    if not width or not height:
        raise ValueError(f"an image of {width} x {height} pixels has none")
    convert = _conversion(image)
    rows = max(1, _AT_ONCE // width)
    if rows >= height:
        return torch.from_numpy(np.array(convert(image))).permute(2, 0, 1)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(convert(image.crop((0, top, width, bottom))))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What makes 8-bit RGB of ``image`` and its parts."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return lambda part: part
    if image.mode == "F":
        return _float_conversion(np.asarray(image))
    if image.mode.startswith("I"):
        return _integers_to_rgb
    if image.has_transparency_data:
        return _over_background
    return lambda part: part.convert("RGB")


def _over_background(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # from which Pillow knows but one way
        image = image.convert("LA")
    background = Image.new("RGBA", image.size, TRANSPARENT_BACKGROUND)
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def _integers_to_rgb(image: Image.Image) -> Image.Image:
    """Pillow's own conversion of more than 8 bits cuts all above 255 to white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"gray values {values.min()} to {values.max()} are not 16-bit")
    gray = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    rgb = gray.convert("RGB")
    transparent = image.info.get("transparency")  # of a PNG: the one gray that is
    if isinstance(transparent, int):
        rgb.paste(TRANSPARENT_BACKGROUND, mask=Image.fromarray(values == transparent))
    return rgb


def _float_conversion(values: NDArray[np.float32]) -> Callable[[Image.Image], Image.Image]:
    """Of an image of ``values``, by the largest of them."""
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 65535:  # nor with a NaN
        raise ValueError(
            "floating-point pixels must be in [0, 1], [0, 255] or [0, 65535], found "
            f"{low:g} to {high:g}"
        )
    factor = np.float32(255 / next(top for top in (1, 255, 65535) if high <= top))

    def convert(part: Image.Image) -> Image.Image:
        rounded = (np.asarray(part) * factor + np.float32(0.5)).astype(np.uint8)
        return Image.fromarray(rounded).convert("RGB")

    return convert
