# SPDX-License-Identifier: Apache-2.0
"""What a detector can be given: files, folders, glob patterns, Pillow images and tensors."""

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from effdet.data.images import decode_image
from effdet.errors import DataError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that a folder or pattern gives; a file given itself may have any."""

Source = str | Path | Image.Image | Tensor
"""One image: a file, a Pillow image or ``[3, H, W]`` uint8 RGB."""


def read_image(source: Source) -> Tensor:
    """``[3, H, W]`` uint8 RGB pixels of one image.

    A file is turned upright by its EXIF orientation. A Pillow image is taken as it is, so that
    boxes are in the pixels its owner sees.

    Raises:
        DataError: for a file that cannot be decoded, or a Pillow image that is not 8-bit.
        ValueError: for a tensor of another type or shape.
    """
    if isinstance(source, Tensor):
        if source.dtype != torch.uint8 or source.ndim != 3 or source.shape[0] != 3:
            raise ValueError(
                f"an image tensor must be [3, H, W] uint8, got {list(source.shape)} {source.dtype}"
            )
        return source
    if isinstance(source, Image.Image):
        if source.mode[0] in "IF":
            raise DataError(f"a Pillow image of mode {source.mode} is not 8-bit; give its file")
        return torch.from_numpy(np.array(source.convert("RGB"))).permute(2, 0, 1)
    return decode_image(source)


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
    return path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
