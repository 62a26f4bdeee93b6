# SPDX-License-Identifier: Apache-2.0
"""Small image files of every format, and ways to damage them."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

Random = np.random.Generator
Mutation = Callable[[Random, bytes], bytes]


@lru_cache(maxsize=1)
def seeds() -> list[bytes]:
    """Valid files of 8 to 64 pixels a side: JPEG, PNG, WebP, GIF, TIFF and BMP in many forms."""
    random = np.random.default_rng(0)
    files: list[bytes] = []

    def add(image: Image.Image, form: str, **options: Any) -> None:
        file = io.BytesIO()
        if more := options.pop("more", None):  # copies: saving leaves marks on an image
            options |= {"save_all": True, "append_images": [frame.copy() for frame in more]}
        image.copy().save(file, form, **options)
        files.append(file.getvalue())

    for width, height in ((8, 8), (31, 17), (64, 48)):
        images = _images(random, width, height)
        rgb, frames = images["RGB"], [images["RGB"].rotate(k * 90) for k in range(3)]
        exif = Image.Exif()
        exif[0x0112] = 6
        for options in ({}, {"progressive": True}, {"quality": 20, "subsampling": 2}):
            add(rgb, "JPEG", exif=exif, **options)
            add(images["L"], "JPEG", **options)
        add(images["CMYK"], "JPEG")
        add(rgb, "JPEG", restart_marker_blocks=1)
        add(rgb, "MPO", more=frames[:1])
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            add(images[mode], "PNG", exif=exif)
        add(images["P"], "PNG", transparency=3)
        add(rgb, "PNG", more=frames)
        for options in ({"quality": 50}, {"lossless": True}, {"quality": 80, "exif": exif}):
            add(rgb, "WEBP", **options)
            add(images["RGBA"], "WEBP", **options)
        add(rgb, "WEBP", more=frames)
        add(images["P"], "GIF")
        add(images["L"], "GIF", transparency=9)
        add(images["P"], "GIF", more=[frame.convert("P") for frame in frames])
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            for mode in ("L", "P", "RGB", "RGBA", "I;16", "F", "CMYK"):
                add(images[mode], "TIFF", compression=compression)
        add(rgb, "TIFF", compression="jpeg")
        add(images["1"], "TIFF", compression="group4")
        add(images["LAB"], "TIFF")
        add(rgb, "TIFF", more=frames)
        for mode in ("1", "L", "P", "RGB", "RGBA"):
            add(images[mode], "BMP")
        files.append(_tiled_tiff(images["L"]))
    return files


def _images(random: Random, width: int, height: int) -> dict[str, Image.Image]:
    """Half noise, half plain, in each mode."""
    pixels = random.integers(0, 256, (height, width, 4), np.uint8)
    pixels[: height // 2] = (200, 30, 90, 255)
    rgba = Image.fromarray(pixels, "RGBA")
    rgb = rgba.convert("RGB")
    images = {mode: rgb.convert(mode) for mode in ("1", "L", "P", "RGB", "CMYK")}
    gray = pixels[..., 0].astype(np.uint16)
    return images | {
        "RGBA": rgba,
        "LA": rgba.convert("LA"),
        "I;16": Image.fromarray(gray * 257),
        "F": Image.fromarray((gray / 255).astype(np.float32)),
        "LAB": Image.merge("LAB", rgb.split()),
    }


def _tiled_tiff(image: Image.Image) -> bytes:
    """A gray TIFF in one tile, compressed by deflate; Pillow does not write such."""
    side = 64
    tile = np.zeros((side, side), np.uint8)
    tile[: image.height, : image.width] = np.asarray(image)
    pixels = zlib.compress(tile.tobytes())
    tags = {256: image.width, 257: image.height, 258: 8, 259: 8, 262: 1, 277: 1}
    tags |= {322: side, 323: side, 324: 8 + 2 + 12 * 10 + 4, 325: len(pixels)}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + pixels


def mutated(seed: int, case: int) -> bytes:
    """The file of a case: a pure function of its numbers."""
    random = np.random.default_rng([seed, case])
    files = seeds()
    content = files[random.integers(len(files))]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content = MUTATIONS[random.integers(len(MUTATIONS))](random, content)
    return content


def _flip(random: Random, content: bytes) -> bytes:
    """A few bytes anywhere become others."""
    found = bytearray(content)
    for place in random.integers(0, max(len(found), 1), random.integers(1, 9)):
        if found:
            found[place] = random.integers(256)
    return bytes(found)


def _flip_header(random: Random, content: bytes) -> bytes:
    """A few bytes near the beginning become telling ones."""
    found = bytearray(content)
    for place in random.integers(0, max(min(len(found), 64), 1), random.integers(1, 5)):
        if found:
            found[place] = random.choice((0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, 0xD9, 0xDA))
    return bytes(found)


def _cut(random: Random, content: bytes) -> bytes:
    return content[: random.integers(len(content) + 1)]


def _insert(random: Random, content: bytes) -> bytes:
    place = random.integers(len(content) + 1)
    return content[:place] + random.bytes(random.integers(1, 40)) + content[place:]


def _remove(random: Random, content: bytes) -> bytes:
    place = random.integers(len(content) + 1)
    return content[:place] + content[place + random.integers(1, 40) :]


def _repeat(random: Random, content: bytes) -> bytes:
    """A piece, such as a segment or a chunk, many times over."""
    first = int(random.integers(len(content) + 1))
    last = first + int(random.integers(1, 80))
    return content[:last] + content[first:last] * int(random.integers(1, 300)) + content[last:]


def _number(random: Random, content: bytes) -> bytes:
    """A length, an offset or a side anywhere becomes extreme."""
    kind = str(random.choice(("<H", ">H", "<I", ">I")))
    largest = 2 ** (8 * struct.calcsize(kind)) - 1
    value = int(random.choice((0, 1, 2, 255, 4096, 16384, 65535, 2**20, 2**31 - 1, 2**31, 2**32)))
    place = int(random.integers(max(len(content) - 4, 1)))
    number = struct.pack(kind, min(value, largest))
    return content[:place] + number + content[place + len(number) :]


def _sides(random: Random, content: bytes) -> bytes:
    """Width and height where the format has them; in a PNG with the checksum that fits."""
    width, height = (
        int(v) for v in random.choice((0, 1, 7, 300, 4000, 7000, 16383, 65535, 2**31 - 1), 2)
    )
    short = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    if content[:4] == b"\x89PNG":
        header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
        return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    if content[:3] == b"GIF":
        return content[:6] + short + content[10:]
    if content[:2] == b"BM":
        return content[:18] + struct.pack("<II", width, height) + content[26:]
    if content[12:16] == b"VP8X":
        sides = b"".join(((v - 1) & 0xFFFFFF).to_bytes(3, "little") for v in (width, height))
        return content[:24] + sides + content[30:]
    if content[:2] == b"II":
        return _tiff_sides(content, width, height)
    place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    if content[:2] == b"\xff\xd8" and place > 0:
        sides = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
        return content[: place + 5] + sides + content[place + 9 :]
    return content


def _tiff_sides(content: bytes, width: int, height: int) -> bytes:
    found = bytearray(content)
    for tag, value in ((256, width), (257, height)):
        for kind in (3, 4):
            place = content.find(struct.pack("<HHI", tag, kind, 1))
            if place >= 0:
                found[place + 8 : place + 12] = struct.pack("<I", value)
    return bytes(found)


def _mend(random: Random, content: bytes) -> bytes:
    """A PNG with a damaged chunk whose checksum is right, so that its decoder gets to see it."""
    if content[:4] != b"\x89PNG":
        return _flip(random, content)
    found, place = bytearray(content), 8
    damaged = random.integers(8, len(found)) if len(found) > 8 else 8
    while place + 12 <= len(found):
        length = int.from_bytes(found[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(found):
            break
        if place <= damaged < end and length:
            found[place + 8 + int(random.integers(length))] = random.integers(256)
            found[end : end + 4] = struct.pack(">I", zlib.crc32(found[place + 4 : end]))
        place = end + 4
    return bytes(found)


def _splice(random: Random, content: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    files = seeds()
    other = files[random.integers(len(files))]
    return content[: random.integers(len(content) + 1)] + other[random.integers(len(other)) :]


MUTATIONS: list[Mutation] = [
    _flip, _flip, _flip_header, _cut, _insert, _remove, _repeat, _number, _number, _sides, _mend,
    _splice,
]  # fmt: skip
