# SPDX-License-Identifier: Apache-2.0
"""Boxes with labels on pictures."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from effdet.boxes import clip_boxes
from effdet.errors import UsageError

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def to_picture(image: Tensor) -> Image.Image:
    """A Pillow image of ``[3, H, W]`` uint8 RGB pixels, on any device."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def draw_boxes(
    picture: Image.Image, boxes: Tensor, labels: Sequence[str], colors: Sequence[Color]
) -> None:
    """Draw boxes with a label each into ``picture``, the first on top.

    Lines and letters grow with the picture; labels stay inside it.

    Args:
        picture: an RGB image, which is changed.
        boxes: ``[N, 4]`` xyxy in its pixels; what lies outside is cut off.
        labels: N printable texts; an empty one gets no ground.
        colors: N RGB colours.
    """
    canvas = ImageDraw.Draw(picture)
    side = (picture.width * picture.height) ** 0.5
    line, letter = max(1, round(side / 250)), max(11, round(side / 38))
    corners = clip_boxes(boxes, (picture.height - 1, picture.width - 1)).round().int().tolist()
    for box, label, color in reversed(list(zip(corners, labels, colors, strict=True))):
        canvas.rectangle(box, outline=color, width=line)
        if label:
            _draw_label(canvas, label, box, color, letter)


def class_color(index: int) -> Color:
    """A stable RGB colour of a class; neighbouring indices are far apart."""
    hue = index * 0.618034 % 1  # golden section: new hues fall into the largest gaps
    value, saturation = ((1.0, 0.85), (0.8, 1.0), (1.0, 0.55))[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture in the format of the file's ending.

    Raises:
        UsageError: for an ending that Pillow does not write.
    """
    try:
        picture.save(path, quality=92)
    except ValueError as error:
        raise UsageError(f"{path}: unknown picture format; use .png or .jpg") from error


def _draw_label(
    canvas: ImageDraw.ImageDraw, text: str, box: list[int], color: Color, letter: int
) -> None:
    """Text on a filled ground, above the box where there is room, else at the top inside it."""
    width, height = canvas.im.size
    pad = max(1, letter // 6)
    font = _fitting_font(text, letter, width - 2 * pad)
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Ég")  # the same height for every text
    label_width, label_height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    x = max(0, min(box[0], width - label_width))
    above = box[1] - label_height
    y = above if above >= 0 else max(0, min(box[1], height - label_height))
    canvas.rectangle((x, y, x + label_width - 1, y + label_height - 1), fill=color)
    canvas.text((x + pad - left, y + pad - top), text, fill=_text_color(color), font=font)


def _fitting_font(text: str, letter: int, width: int) -> Font:
    """Letters ``letter`` pixels high, smaller where the text would be wider than ``width``."""
    font = _font(letter)
    left, _, right, _ = font.getbbox(text)
    if right - left <= width:
        return font
    return _font(max(6, int(letter * width / (right - left))))


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _text_color(ground: Color) -> Color:
    """Black or white, whichever is easier to read."""
    red, green, blue = ground
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
