# SPDX-License-Identifier: Apache-2.0
"""An image as its file has it, and the right way up."""

import hashlib
from dataclasses import dataclass

from torch import Tensor

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredImage:
    """An image file as it is, for those who look at data instead of using it.

    Attributes:
        pixels: ``[3, H, W]`` uint8 RGB, not turned.
        orientation: EXIF orientation 1-8 that is still to be applied.
        mode: Pillow's word for the kind of pixels, such as ``RGB`` or ``CMYK``.
        has_more: whether there are other frames or pages.
        content: the whole file.
    """

    pixels: Tensor
    orientation: int
    mode: str
    has_more: bool
    content: bytes

    def digest(self) -> bytes:
        """16 bytes that tell the file from every other one."""
        return hashlib.blake2b(self.content, digest_size=16).digest()

    @property
    def size(self) -> Size:
        """``(height, width)`` of the stored pixels."""
        return size_of(self.pixels)

    @property
    def upright_size(self) -> Size:
        """``(height, width)`` of the image the right way up."""
        return turned(self.size, self.orientation)

    def upright(self) -> Tensor:
        """``[3, H, W]`` uint8 RGB the right way up."""
        return turn_upright(self.pixels, self.orientation)


def size_of(image: Tensor) -> Size:
    """``(height, width)`` of an image ``[3, H, W]``."""
    return image.shape[1], image.shape[2]


def turned(size: Size, orientation: int) -> Size:
    """``size`` after an EXIF orientation is applied."""
    return (size[1], size[0]) if orientation in _TRANSPOSED else size


def turn_upright(image: Tensor, orientation: int) -> Tensor:
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
