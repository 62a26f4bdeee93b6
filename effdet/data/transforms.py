# SPDX-License-Identifier: Apache-2.0
"""From a decoded image to network input, and its boxes with it.

Formulas and their order are the reference's (google/automl ``dataloader.py``): single-precision
scales, sizes cut to integers, bilinear resize with half-pixel centres and no antialias, placed at
the top left, the rest filled with the mean colour (0 after normalisation). Sizes are
``(height, width)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from effdet.errors import UsageError
from effdet.structures import Target

Size = tuple[int, int]
Rgb = tuple[float, float, float]


class Transform(Protocol):
    """What a data set needs: an image and its target in, network input out."""

    def __call__(
        self, image: Tensor, target: Target, generator: np.random.Generator
    ) -> tuple[Tensor, Target]:
        """Transform one sample, drawing only from ``generator``."""


class ResizableTransform(Transform, Protocol):
    """A transform whose output may have another size in each training step."""

    def resized(self, size: Size) -> Transform:
        """The same with ``size``, ``(height, width)`` in pixels, as its output."""


@dataclass(frozen=True)
class EvalTransform:
    """Letterbox: the whole image, as large as fits, at the top left.

    Attributes:
        image_size: ``(height, width)`` of the network input in pixels.
        mean: subtracted from RGB values in 0-255.
        std: divides the RGB values after that.
    """

    image_size: Size
    mean: Rgb
    std: Rgb

    def __call__(
        self, image: Tensor, target: Target, generator: np.random.Generator | None = None
    ) -> tuple[Tensor, Target]:
        """``[3, H, W]`` uint8 and its target -> ``[3, *image_size]`` float32 and its target."""
        size, scale = letterbox_size(size_of(image), self.image_size)
        pixels = place_image(image, size, (0, 0), self.image_size, self.mean, self.std)
        return pixels, place_target(target, size, (0, 0), self.image_size, scale)


@dataclass(frozen=True)
class TrainTransform:
    """Horizontal flip and scale jitter with a random crop.

    Attributes:
        image_size: ``(height, width)`` of the network input in pixels.
        mean: subtracted from RGB values in 0-255.
        std: divides the RGB values after that.
        jitter: range of the factor on the letterbox size; above 1 the image is cropped.
        flip: chance of a horizontal flip, 0-1.
    """

    image_size: Size
    mean: Rgb
    std: Rgb
    jitter: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.jitter[0] <= self.jitter[1]:
            raise UsageError(f"jitter must be 0 < low <= high, got {self.jitter}")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"flip must be in [0, 1], got {self.flip}")

    def resized(self, size: Size) -> "TrainTransform":
        """The same with ``size``, ``(height, width)`` in pixels, as its output."""
        return replace(self, image_size=size)

    def __call__(
        self, image: Tensor, target: Target, generator: np.random.Generator
    ) -> tuple[Tensor, Target]:
        """``[3, H, W]`` uint8 and its target -> ``[3, *image_size]`` float32 and its target.

        Always four draws from ``generator``: flip, factor, vertical and horizontal offset.
        """
        flip, position, *offsets = generator.random(4)
        if flip < self.flip:
            image, target = hflip(image, target)
        factor = self.jitter[0] + (self.jitter[1] - self.jitter[0]) * position
        size, scale = jitter_size(size_of(image), self.image_size, factor)
        offset = crop_offset(size, self.image_size, offsets)
        pixels = place_image(image, size, offset, self.image_size, self.mean, self.std)
        return pixels, place_target(target, size, offset, self.image_size, scale)


def letterbox(image: Tensor, output: Size, mean: Rgb, std: Rgb) -> tuple[Tensor, float]:
    """Network input of one image without a target, for prediction.

    Args:
        image: ``[3, H, W]`` uint8 RGB.
        output: ``(height, width)`` of the network input in pixels.
        mean: subtracted from RGB values in 0-255.
        std: divides the RGB values after that.

    Returns:
        ``[3, *output]`` float32, and the scale: original pixels = network pixels / scale.
    """
    size, scale = letterbox_size(size_of(image), output)
    return place_image(image, size, (0, 0), output, mean, std), scale


def size_of(image: Tensor) -> Size:
    """``(height, width)`` of an image ``[..., H, W]``."""
    return image.shape[-2], image.shape[-1]


def letterbox_size(size: Size, output: Size) -> tuple[Size, float]:
    """The size at which an image of ``size`` just fits ``output``, and its scale.

    In single precision as in the reference: double would now and then give a pixel more.
    """
    height, width = np.float32(size[0]), np.float32(size[1])
    scale = min(np.float32(output[0]) / height, np.float32(output[1]) / width)
    # A strip much longer than wide would vanish; one pixel of it must stay.
    return (max(1, int(height * scale)), max(1, int(width * scale))), float(scale)


def jitter_size(size: Size, output: Size, factor: float) -> tuple[Size, float]:
    """The size at which an image of ``size`` fits ``factor`` times ``output``, and its scale."""
    scaled = (max(1, int(factor * output[0])), max(1, int(factor * output[1])))
    return letterbox_size(size, scaled)


def crop_offset(size: Size, output: Size, draws: Sequence[float]) -> Size:
    """Top left corner of a crop of ``output`` out of ``size``, from two ``draws`` in [0, 1)."""
    top, left = (
        int(max(0, scaled - out) * draw)
        for scaled, out, draw in zip(size, output, draws, strict=True)
    )
    return top, left


def hflip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """The image ``[..., H, W]`` and its boxes mirrored left to right."""
    x1, y1, x2, y2 = target.boxes.unbind(-1)
    width = image.shape[-1]
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=-1)
    return image.flip(-1), replace(target, boxes=boxes)


def place_image(
    image: Tensor, size: Size, offset: Size, output: Size, mean: Rgb, std: Rgb
) -> Tensor:
    """Resize, crop, normalise and pad.

    Args:
        image: ``[3, H, W]`` uint8 RGB.
        size: ``(height, width)`` to resize to.
        offset: ``(top, left)`` of the crop in the resized image.
        output: ``(height, width)`` of the result.
        mean: subtracted from RGB values in 0-255.
        std: divides the RGB values after that.

    Returns:
        ``[3, *output]`` float32, 0 right of and below the image.
    """
    # The reference normalises first. Both are linear, so the order only moves the last bits, and
    # after the crop there are fewer pixels.
    resized = interpolate(image.float()[None], size=size, mode="bilinear", align_corners=False)[0]
    top, left = offset
    part = resized[:, top : top + output[0], left : left + output[1]]
    canvas = part.new_zeros((output[0], output[1], 3)).permute(2, 0, 1)
    per_channel = part.new_tensor([mean, std])[:, :, None, None]  # [2, 3, 1, 1]
    region = canvas[:, : part.shape[1], : part.shape[2]]
    torch.sub(part, per_channel[0], out=region)
    region.div_(per_channel[1])
    return canvas


def place_target(target: Target, size: Size, offset: Size, output: Size, scale: float) -> Target:
    """Move the boxes with their image; clip them to the output and drop those without area.

    The boxes follow the resized ``size``, which was cut to integers, and end at the last pixel's
    index (``output - 1``), both as in the reference.
    """
    height, width = target.size
    ratio = target.boxes.new_tensor([size[1] / width, size[0] / height]).repeat(2)
    shift = target.boxes.new_tensor([offset[1], offset[0]]).repeat(2)
    last = target.boxes.new_tensor([output[1] - 1, output[0] - 1]).repeat(2)
    boxes = (target.boxes * ratio - shift).clamp(min=0).minimum(last)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return replace(
        target,
        boxes=boxes[keep],
        labels=target.labels[keep],
        crowd=target.crowd[keep],
        scale=scale,
    )
