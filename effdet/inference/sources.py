# SPDX-License-Identifier: Apache-2.0
"""What a detector can be given: files, folders, glob patterns, Pillow images and tensors."""

import glob
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from effdet.data.images import Note, decode_image, ignore_notes
from effdet.data.pixels import image_to_tensor
from effdet.errors import DataError, one_line, printable
from effdet.settings import MAX_PIXELS

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Endings of the files that a folder or pattern gives; a file given itself may have any."""

Source = str | Path | Image.Image | Tensor
"""One image: a file, a Pillow image or ``[3, H, W]`` uint8 RGB."""


def read_image(
    source: Source, max_pixels: int = MAX_PIXELS, *, note: Note = ignore_notes
) -> Tensor:
    """``[3, H, W]`` uint8 RGB pixels of one image.

    A file is turned upright by its EXIF orientation. A Pillow image is not turned, so that boxes
    are in the pixels its owner sees; its modes are converted as those of a file.

    Args:
        source: the image.
        max_pixels: of a file; a larger one is refused before it is decoded.
        note: of a file; called with a line where it holds more than was taken.

    Raises:
        DataError: for a file or a Pillow image that cannot be decoded.
        ValueError: for a tensor of another type or shape.
    """
    if isinstance(source, Tensor):
        if source.dtype != torch.uint8 or source.ndim != 3 or source.shape[0] != 3:
            raise ValueError(
                f"an image tensor must be [3, H, W] uint8, got {list(source.shape)} {source.dtype}"
            )
        return source
    if isinstance(source, Image.Image):
        return _read_pillow(source)
    return decode_image(source, max_pixels, note=note)


def _read_pillow(image: Image.Image) -> Tensor:
    try:
        return image_to_tensor(image)
    except Exception as error:  # it may be read from its file only now
        name = getattr(image, "filename", "") or "a Pillow image"
        text = f"{name}: cannot decode the image: {one_line(error) or type(error).__name__}"
        raise DataError(printable(text)) from error


def expand_sources(words: Sequence[str | Path]) -> list[Path]:
    """The image files that ``words`` name, each once, in the order of the words.

    A word is a file, a folder (the images right in it, by name) or a glob pattern (``**`` goes
    into folders).

    Raises:
        DataError: for a word that gives no image.
    """
    files: dict[Path, None] = {}
    for word in words:
        found = _expand(Path(word))
        if not found:
            raise DataError(f"{word}: no image files here ({', '.join(SUFFIXES)})")
        files.update(dict.fromkeys(found))
    if not files:
        raise DataError("no image was given")
    return list(files)


def _expand(word: Path) -> list[Path]:
    if word.is_dir():
        return sorted(path for path in word.iterdir() if _is_image(path))
    if word.exists():
        return [word]
    if glob.has_magic(str(word)):
        return sorted(path for path in map(Path, _glob(word)) if _is_image(path))
    raise DataError(f"{word}: no such file or folder")


def _glob(pattern: Path) -> list[str]:
    return glob.glob(str(pattern.expanduser()), recursive=True)


def _is_image(path: Path) -> bool:
    # Names that begin with a dot are other programs' notes, such as macOS's "._photo.jpg".
    # Links that lead nowhere and the like stay, so that they are missed and named later.
    return path.suffix.lower() in SUFFIXES and path.name[0] != "." and not path.is_dir()
