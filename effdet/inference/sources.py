# SPDX-License-Identifier: Apache-2.0
"""What a detector can be given: images, folders, globs, lists, addresses, videos, cameras."""

import glob
import itertools
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from effdet.data.image_file import IMAGE_SUFFIXES
from effdet.data.images import Note, decode_content, decode_image, ignore_notes
from effdet.data.pixels import image_to_tensor
from effdet.errors import DataError, one_line, printable
from effdet.files.regular import open_regular
from effdet.inference.addresses import fetch, is_address, path_of, shown_address
from effdet.settings import MAX_PIXELS

VIDEO_SUFFIXES = (
    ".avi", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ts", ".webm", ".wmv",
)  # fmt: skip
"""Endings of video files; any other can be given as ``video:FILE``."""

STREAM_SUFFIXES = (*VIDEO_SUFFIXES, ".m3u8", ".mpd")
"""Endings of addresses that are videos; any other can be given as ``video:ADDRESS``."""

CAMERA, VIDEO = "webcam:", "video:"
"""Prefixes of words that are cameras, and videos whatever their ending."""

MAX_LIST_BYTES = 100_000_000
"""Size of a list file that is read."""

MOST_FOLDERS = 1000
"""Folders that are looked into for the images that a folder does not hold itself."""

Source = str | Path | Image.Image | Tensor
"""One image: a file, an https address, a Pillow image or ``[3, H, W]`` uint8 RGB."""


@dataclass(frozen=True)
class ImageSource:
    """An image that is not read yet.

    Attributes:
        place: its file or address.
    """

    place: Path | str

    def __str__(self) -> str:
        return shown_place(self.place)


@dataclass(frozen=True)
class VideoSource:
    """A video that is not opened yet.

    Attributes:
        place: a file, an address, or ``webcam:0``.
    """

    place: Path | str

    def __str__(self) -> str:
        return shown_place(self.place)

    @property
    def is_camera(self) -> bool:
        """Whether it is a camera of this machine."""
        return isinstance(self.place, str) and self.place.startswith(CAMERA)

    @property
    def is_live(self) -> bool:
        """Whether frames come when they come, and late ones are of no use."""
        return self.is_camera or str(self.place).lower().startswith(("rtsp", "rtmp", "udp", "srt"))


AnySource = ImageSource | VideoSource


def shown_place(place: Path | str) -> str:
    """A file or address for messages and files that are written, without a password."""
    if isinstance(place, str) and is_address(place):
        return shown_address(place)
    return str(place)


def read_image(
    source: Source, max_pixels: int = MAX_PIXELS, *, note: Note = ignore_notes
) -> Tensor:
    """``[3, H, W]`` uint8 RGB pixels of one image.

    A file, at an address too, is turned upright by its EXIF orientation. A Pillow image is not
    turned, so that boxes are in the pixels its owner sees; its modes are converted as a file's.

    Args:
        source: the image.
        max_pixels: of a file; a larger one is refused before it is decoded.
        note: of a file; called with a line where it holds more than was taken.

    Raises:
        DataError: for a file, address or Pillow image that cannot be had or decoded.
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
    if isinstance(source, str) and is_address(source):
        return decode_content(fetch(source), shown_address(source), max_pixels, note=note)
    return decode_image(source, max_pixels, note=note)


def _read_pillow(image: Image.Image) -> Tensor:
    try:
        return image_to_tensor(image)
    except Exception as error:  # it may be read from its file only now
        name = getattr(image, "filename", "") or "a Pillow image"
        text = f"{name}: cannot decode the image: {one_line(error) or type(error).__name__}"
        raise DataError(printable(text)) from error


def expand_sources(words: Sequence[str | Path]) -> list[AnySource]:
    """The images and videos that ``words`` name, each once, in the order of the words.

    A word is

    - an image file (of any ending), or a video file by its ending (:data:`VIDEO_SUFFIXES`);
    - a folder: the images right in it, by name;
    - a glob pattern (``**`` goes into folders): images and videos by their endings;
    - a ``.txt`` file: a word a line, but no further list; relative ones from the file's folder;
    - the https address of an image; of a video by its ending, and rtsp and the like;
    - ``webcam:0``, a camera of this machine; ``video:PLACE``, whatever its ending.

    Raises:
        DataError: for a word that gives nothing.
    """
    found: dict[AnySource, None] = {}
    for word in words:
        sources = _expand_list(Path(word)) if _is_list(Path(word)) else _expand(word)
        found.update(dict.fromkeys(sources))
    if not found:
        raise DataError("no image was given")
    return list(found)


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and path.is_file()


def _expand_list(path: Path) -> list[AnySource]:
    with open_regular(path, "list of images", DataError, MAX_LIST_BYTES) as file:
        text = file.read(MAX_LIST_BYTES).decode("utf-8-sig", errors="surrogateescape")
    found: list[AnySource] = []
    for number, line in enumerate(text.split("\n"), start=1):
        word = line.strip()
        if word:
            try:
                found += _expand(word if _is_special(word) else path.parent / word)
            except DataError as error:
                raise DataError(f"{printable(str(path))}, line {number}: {error}") from error
    if not found:
        raise DataError(f"{printable(str(path))}: no images are listed here")
    return found


def _is_special(word: str) -> bool:
    return word.startswith((CAMERA, VIDEO)) or is_address(word)


def _expand(word: str | Path) -> list[AnySource]:
    """What one word gives that is no list; at least one source."""
    if isinstance(word, str) and _is_special(word):
        return [_special(word)]
    path = Path(word)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _is_media(p, IMAGE_SUFFIXES))
    elif path.exists():
        files = [path]
    elif glob.has_magic(str(path)):
        kinds = IMAGE_SUFFIXES + VIDEO_SUFFIXES
        files = sorted(p for p in map(Path, _glob(path)) if _is_media(p, kinds))
    else:
        raise DataError(f"{printable(str(word))}: no such file or folder")
    if not files:
        endings = ", ".join(IMAGE_SUFFIXES)
        advice = _deeper(path) if path.is_dir() else ""
        raise DataError(f"{printable(str(word))}: no image files here ({endings}){advice}")
    return [_source(file) for file in files]


def _deeper(folder: Path) -> str:
    """Advice for a folder whose images are in folders within it; nothing for others."""
    for inner, folders, names in itertools.islice(os.walk(folder), MOST_FOLDERS):
        folders.sort()
        found = [name for name in names if _is_media(Path(inner, name), IMAGE_SUFFIXES)]
        if found:
            pattern = shlex.quote(f"{folder}/**/*{Path(found[0]).suffix}")
            return printable(f"; there are some in {inner}: name that folder, or all by {pattern}")
    return ""


def _special(word: str) -> AnySource:
    if word.startswith(CAMERA):
        return VideoSource(word)
    if word.startswith(VIDEO):
        place = word.removeprefix(VIDEO)
        return VideoSource(place if is_address(place) else Path(place))
    if not word.lower().startswith(("http://", "https://")):
        return VideoSource(word)
    is_video = path_of(word).lower().endswith(STREAM_SUFFIXES)
    return VideoSource(word) if is_video else ImageSource(word)


def _source(file: Path) -> AnySource:
    is_video = file.suffix.lower() in VIDEO_SUFFIXES
    return VideoSource(file) if is_video else ImageSource(file)


def _glob(pattern: Path) -> list[str]:
    return glob.glob(str(pattern.expanduser()), recursive=True)


def _is_media(path: Path, suffixes: tuple[str, ...]) -> bool:
    # Names that begin with a dot are other programs' notes, such as macOS's "._photo.jpg".
    # Links that lead nowhere and the like stay, so that they are missed and named later.
    return path.suffix.lower() in suffixes and path.name[0] != "." and not path.is_dir()
