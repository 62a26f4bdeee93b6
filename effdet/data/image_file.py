# SPDX-License-Identifier: Apache-2.0
"""The bytes of an image file, and what can be said of them before anything decodes them."""

import io
import re
from pathlib import Path

from effdet.errors import DataError, printable
from effdet.files.regular import read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
"""What is decoded, by content and not by ending. Each more is a parser more for hostile files."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Usual endings of such files, by which images are told from other files of a folder."""

MAX_BYTES = 200_000_000
"""Size of an image file that is read."""

MAX_READS = 300_000
"""Pieces of a file that a decoder asks for; each empty segment of a header is one."""


def name_of(path: str | Path) -> str:
    """The path as it stands in an error message."""
    return printable(str(path))


def read_file(path: str | Path) -> bytes:
    """All of a regular file; a pipe or a device is never waited for.

    Raises:
        DataError: naming the path, where it is none, too large or cannot be read.
    """
    return read_regular(path, "image file", DataError, MAX_BYTES)


class MeteredFile(io.BytesIO):
    """A file in memory that is read a limited number of times.

    Millions of empty segments before the pixels would otherwise cost minutes.
    """

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        """As of any file.

        Raises:
            ValueError: where it was read :data:`MAX_READS` times already.
        """
        self.reads += 1
        if self.reads > MAX_READS:
            raise ValueError(f"the file is in more than {MAX_READS} pieces")
        return super().read(size)


def count_scans(content: bytes) -> int:
    """Scans of the first image in a JPEG file, read as libjpeg reads it."""
    scans, place = 0, 2
    while (found := _MARKER.search(content, place)) is not None:
        marker, place = content[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker not in _WITHOUT_LENGTH:
            place += int.from_bytes(content[place : place + 2], "big")
        scans += marker == _START_OF_SCAN
    return scans


_MARKER = re.compile(rb"\xff+[^\x00\xff]", re.DOTALL)
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def is_cut_off(content: bytes) -> bool:
    """Whether an image file lacks its end, by what its format says of where that is."""
    if content.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in content[content.rfind(b"\xff\xda") :]
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content[-1024:]
    if content.startswith(b"GIF8"):
        return not content.rstrip(b"\0").endswith(b";")
    if content.startswith(b"RIFF"):
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    if content.startswith(b"BM"):
        return len(content) < int.from_bytes(content[2:6], "little")
    return False


def kind_of(content: bytes) -> str:
    """What a file is that is none of the formats, for an error message."""
    if not content:
        return "the file is empty"
    found = next((name for name, form in _SIGNATURES if form.match(content)), None)
    expected = f"not an image that can be read here; expected {', '.join(FORMATS)}"
    return expected if found is None else f"{expected}, found {found}"


_SIGNATURES = [
    (name, re.compile(pattern, re.DOTALL | re.IGNORECASE))
    for name, pattern in (
        ("a damaged JPEG", rb"\xff\xd8\xff"),
        ("a damaged PNG", rb"\x89PNG"),
        ("a damaged WEBP", rb"RIFF....WEBP"),
        ("a damaged GIF", rb"GIF8"),
        ("a damaged TIFF", rb"II[*+]\0|MM\0[*+]"),
        ("a damaged BMP", rb"BM"),
        ("PPM", rb"P[1-7F][fy]?\s"),
        ("HEIC", rb"....ftyp(hei|hev|mif|msf)"),
        ("AVIF", rb"....ftypavi"),
        ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
        ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("ICO", rb"\0\0[\x01\x02]\0"),
        ("PSD", rb"8BPS"),
        ("PDF", rb"%PDF"),
        ("EPS", rb"%!PS"),
        ("DDS", rb"DDS "),
        ("EXR", rb"v/1\x01"),
        ("SVG", rb"\s*(<\?xml[^>]*>\s*)?<svg"),
        ("HTML", rb"\s*<(!doctype )?html"),
        ("DICOM", rb".{128}DICM"),
    )
]
