# SPDX-License-Identifier: Apache-2.0
"""The built-in demo set: bright shapes on noisy backgrounds, as COCO JSON and JPEG files.

It is drawn on first use, the same pixels every time, so that a detector can be trained and
validated without a download. Objects are large and distinct: a model of 4 million parameters
learns them from random weights in minutes on a CPU.
"""

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from effdet.cache import ADVICE, cache_folder
from effdet.errors import DataError

NAME = "shapes"
VERSION = 1
"""Part of the folder's name; to be raised whenever a pixel or a box changes."""

SPLITS = {"train": 480, "val": 96}

# A gap before the last id, as most real data sets have one.
CATEGORIES = {1: "circle", 2: "square", 3: "triangle", 5: "star"}

SIDES = (128, 192)
"""Shortest and longest image side in pixels."""

OBJECT_SIZE = (0.3, 0.5)
"""Diameter of an object's circumscribed circle, in shorter image sides."""

MAX_OBJECTS = 5
EMPTY_SHARE = 0.04
MAX_OVERLAP = 0.15
JPEG_QUALITY = 90

Generator = np.random.Generator
Mask = NDArray[np.bool_]
Points = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """One image of the set.

    Attributes:
        pixels: ``[H, W, 3]`` uint8 RGB.
        visible: ``[H, W]`` int, which object a pixel shows, counted from 1; 0 is background.
        categories: category id of each object.
    """

    pixels: NDArray[np.uint8]
    visible: NDArray[np.int64]
    categories: tuple[int, ...]


def resolve_data(data: str | Path) -> Path:
    """The data folder that ``data`` means: a folder, or ``shapes`` for the built-in set.

    Raises:
        DataError: where there is no such folder.
    """
    if Path(data).is_dir():
        return Path(data)
    if str(data) == NAME:
        return ensure_shapes()
    if Path(data).is_file():
        folder = Path(data).parent
        raise DataError(f"{data}: a file, expected a data folder, such as that it is in: {folder}")
    raise DataError(f"{data}: no such data folder (a path, or {NAME!r} for the built-in set)")


def ensure_shapes(root: str | Path | None = None) -> Path:
    """The folder of the built-in set, drawn now if it is not there yet.

    The folder appears complete or not at all; several processes may ask for it at the same time.

    Args:
        root: the folder that holds it; by default ``$EFFDET_CACHE``, else ``effdet`` in the user's
            cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``).

    Raises:
        DataError: where the folder cannot be written.
    """
    folder = (Path(root) if root is not None else cache_folder()) / f"{NAME}-v{VERSION}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write_and_rename(folder)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot write the built-in data set: {error.strerror}; {ADVICE}"
        ) from error
    return folder


def draw(split: str, index: int) -> Drawing:
    """Image ``index`` of ``split``, a pure function of both."""
    generator = np.random.default_rng([VERSION, list(SPLITS).index(split), index])
    height, width = (int(side) for side in generator.integers(SIDES[0], SIDES[1] + 1, size=2))
    canvas = _background(generator, height, width)
    visible = np.zeros((height, width), dtype=np.int64)
    masks: list[Mask] = []
    categories: list[int] = []
    for _ in range(_object_count(generator)):
        category_id = int(generator.choice(list(CATEGORIES)))
        mask = _place(generator, category_id, (height, width), masks)
        if mask is None:
            continue
        canvas[mask] = _fill(generator, mask)
        masks.append(mask)
        visible[mask] = len(masks)
        categories.append(category_id)
    canvas += generator.normal(0, 5, canvas.shape)
    pixels = canvas.round().clip(0, 255).astype(np.uint8)
    return Drawing(pixels=pixels, visible=visible, categories=tuple(categories))


def _write_and_rename(folder: Path) -> None:
    """Write beside ``folder`` and rename, which is atomic; another process may have been faster."""
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for split, count in SPLITS.items():
            _write_split(part, split, count)
        part.chmod(0o755)
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    else:
        counts = " and ".join(f"{count} {split}" for split, count in SPLITS.items())
        print(f"effdet: drew the built-in set: {counts} images in {folder}", file=sys.stderr)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_split(folder: Path, split: str, count: int) -> None:
    (folder / split).mkdir()
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        drawing = draw(split, index)
        name = f"{split}_{index:04d}.jpg"
        Image.fromarray(drawing.pixels).save(folder / split / name, quality=JPEG_QUALITY)
        height, width = drawing.visible.shape
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for annotation in _annotations(drawing):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": index + 1, "iscrowd": 0} | annotation
            )
    content = {
        "info": {"description": f"effdet {NAME} v{VERSION}, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _annotations(drawing: Drawing) -> list[dict[str, Any]]:
    """Category, box and area of each object: the box is tight around the pixels that show it."""
    annotations = []
    for number, category_id in enumerate(drawing.categories, start=1):
        rows, columns = np.nonzero(drawing.visible == number)
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
        annotations.append({"category_id": category_id, "bbox": box, "area": len(rows)})
    return annotations


def _object_count(generator: Generator) -> int:
    """0 in :data:`EMPTY_SHARE` of the images, else 1 to :data:`MAX_OBJECTS`."""
    empty, count = generator.random(), int(generator.integers(1, MAX_OBJECTS + 1))
    return 0 if empty < EMPTY_SHARE else count


def _background(generator: Generator, height: int, width: int) -> NDArray[np.float64]:
    """``[H, W, 3]``: soft blotches of dull colours, 40-140."""
    gray = generator.uniform(60, 120)
    blotches = gray + generator.uniform(-20, 20, size=(5, 6, 3))
    small = Image.fromarray(blotches.round().astype(np.uint8))
    resized = small.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).astype(np.float64)


def _fill(generator: Generator, mask: Mask) -> NDArray[np.float64]:
    """``[pixels of the mask, 3]``: one bright colour, getting darker to one side."""
    hue, light = generator.random(), generator.uniform(170, 250)
    weak = generator.uniform(0.1, 0.45)
    colour = light * np.array([_ramp(hue + third / 3, weak) for third in range(3)])
    columns = np.nonzero(mask)[1]
    shade = 1 - 0.2 * (columns - columns.min()) / (1 + np.ptp(columns))
    pixels: NDArray[np.float64] = shade[:, None] * colour
    return pixels


def _ramp(hue: float, weak: float) -> float:
    """Strength ``weak`` to 1 of one of three colours on the circle of hues."""
    distance = abs((hue % 1) - 0.5) * 2  # 1 at hue 0, 0 on the far side
    return weak + (1 - weak) * min(1.0, max(0.0, 3 * distance - 1))


def _place(
    generator: Generator, category_id: int, size: tuple[int, int], masks: list[Mask]
) -> Mask | None:
    """A mask of the shape that hides at most :data:`MAX_OVERLAP` of any other; None if no room."""
    height, width = size
    radius = generator.uniform(*OBJECT_SIZE) * min(size) / 2
    for _ in range(12):
        x = generator.uniform(radius, width - 1 - radius)
        y = generator.uniform(radius, height - 1 - radius)
        angle = generator.uniform(-math.pi, math.pi)
        mask = _mask(category_id, (x, y), radius, angle, size)
        if all((mask & other).sum() <= MAX_OVERLAP * other.sum() for other in masks):
            return mask
    return None


def _mask(
    category_id: int,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    size: tuple[int, int],
) -> Mask:
    """``[H, W]`` bool, the pixels of a shape within ``radius`` of its ``centre`` (x, y)."""
    canvas = Image.new("1", (size[1], size[0]))
    _SHAPES[CATEGORIES[category_id]](ImageDraw.Draw(canvas), centre, radius, angle)
    return np.array(canvas)


def _circle(
    drawing: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, angle: float
) -> None:
    # Of the same area as a square within the same circle, or it would be the largest by far.
    r = 0.85 * radius
    x, y = centre
    drawing.ellipse((x - r, y - r, x + r, y + r), fill=1)


def _polygon(corners: int, inner: float, tilt: float) -> Callable[..., None]:
    """A drawer of a polygon whose corners lie on the circle and, if ``inner``, between on another.

    Args:
        corners: corners on the outer circle, the first on top.
        inner: radius of the inner corners in radii, 0 for none.
        tilt: the polygon turns by at most this share of the angle it is given.
    """
    count = 2 * corners if inner else corners
    start = math.pi / 4 if corners == 4 else 0.0  # a square lies on its side

    def draw_polygon(
        drawing: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, angle: float
    ) -> None:
        points: Points = []
        for k in range(count):
            r = radius * (inner if inner and k % 2 else 1.0)
            turn = start + tilt * angle + 2 * math.pi * k / count
            points.append((centre[0] + r * math.sin(turn), centre[1] - r * math.cos(turn)))
        drawing.polygon(points, fill=1)

    return draw_polygon


_SHAPES: dict[str, Callable[..., None]] = {
    "circle": _circle,
    "square": _polygon(4, inner=0.0, tilt=0.08),
    "triangle": _polygon(3, inner=0.0, tilt=0.08),
    "star": _polygon(5, inner=0.42, tilt=0.08),
}
