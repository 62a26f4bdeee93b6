# SPDX-License-Identifier: Apache-2.0
"""Files that are no images, or hostile ones: one line that names the file, at once."""

import io
import os
import socket
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from effdet.data import image_file
from effdet.data.image_file import count_scans, is_cut_off
from effdet.data.images import MAX_SCANS, decode_annotated, decode_image
from effdet.errors import DataError


def refusal(path: Path | str, **options: int) -> str:
    """What is said after the name of the file, of one line, after little work."""
    start = time.process_time()
    with pytest.raises(DataError) as caught:
        decode_image(path, **options)
    assert time.process_time() - start < 3
    text = str(caught.value)
    assert text.isprintable()
    return text.removeprefix(f"{path}: ")


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


# What is no file to be read.
def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.jpg") == "no such image file"
    assert refusal(tmp_path / "no" / "folder.jpg") == "no such image file"


def test_what_is_not_a_regular_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.jpg"))  # a short name: there is a limit
        for name in ("pipe.jpg", "zero.jpg", "folder.jpg", "socket.jpg"):
            assert refusal(tmp_path / name).endswith(", expected an image file")


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    noise().save(tmp_path / "a.png")
    state = (tmp_path / "a.png").stat()
    monkeypatch.setattr(Path, "stat", lambda path, **_: state)
    assert refusal(tmp_path / "pipe") == "not a regular file, expected an image file"


def test_a_name_that_no_file_can_have_is_printed_harmlessly(tmp_path: Path) -> None:
    assert refusal(tmp_path / ("x" * 300)) == "cannot read the image file: File name too long"
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop").startswith("cannot read the image file: Too many levels")
    for name in ("a\0b", "a\nb", "a\x1b[2Jb", "a\udcffb", "a\ud800b"):
        assert name not in refusal(f"{tmp_path}/{name}")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "a.png").touch(mode=0)
    assert refusal(tmp_path / "a.png") == "cannot read the file: Permission denied"


def test_a_file_that_is_too_long_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(10**13)
    assert "a file of 10,000,000,000,000 bytes, more than 200,000,000" in refusal(
        tmp_path / "a.png"
    )


# What is in it.
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the file is empty"),
        (b"nothing known", "BMP"),
        (b"<!DOCTYPE html><html><body>404", "found HTML"),
        (b"P6\n1 1 255\nabc", "found PPM"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "found HEIC"),
        (b"%PDF-1.7", "found PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0", "found a damaged PNG"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert refusal(tmp_path / "a.jpg").endswith(text)


@pytest.mark.parametrize("form", ["PPM", "ICO", "TGA", "JPEG2000", "PCX", "SGI", "AVIF"])
def test_formats_that_are_not_wanted_are_not_decoded(tmp_path: Path, form: str) -> None:
    try:
        (tmp_path / "a.png").write_bytes(encoded(noise(), form))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {form}")
    assert refusal(tmp_path / "a.png").startswith("not an image that can be read here")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_the_ending_need_not_fit(tmp_path: Path, form: str) -> None:
    (tmp_path / "a.txt").write_bytes(encoded(noise(), form))
    assert decode_image(tmp_path / "a.txt").shape == (3, 30, 40)


# What it promises to hold.
def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (20_000, 20_000), (2**31 - 1, 9)])
def test_a_header_that_promises_too_much_is_refused_and_nothing_warned_of(
    tmp_path: Path, width: int, height: int
) -> None:
    (tmp_path / "a.png").write_bytes(png(width, height, chunk(b"IDAT", zlib.compress(b"\0" * 99))))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        text = refusal(tmp_path / "a.png")
        assert warnings.filters[0][0] == "always"  # the filters are those of before
    assert "more than --max-pixels 50000000" in text
    assert not told


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_the_limit_of_pixels_holds_for_each_format(tmp_path: Path, form: str) -> None:
    (tmp_path / "a").write_bytes(encoded(noise(40, 30), form))
    assert decode_image(tmp_path / "a", 1200).shape == (3, 30, 40)
    text = "cannot decode the image: 40 x 30 pixels, more than --max-pixels 1199"
    assert refusal(tmp_path / "a", max_pixels=1199) == text
    with pytest.raises(DataError, match="more than --max-pixels 1199"):
        decode_annotated(tmp_path / "a", (30, 40), 1199)


def test_a_tile_larger_than_its_image_counts(tmp_path: Path) -> None:
    pixels = zlib.compress(bytes(64 * 64))
    (tmp_path / "a.tif").write_bytes(tiled(64, pixels))
    assert decode_image(tmp_path / "a.tif").shape == (3, 30, 40)
    (tmp_path / "a.tif").write_bytes(tiled(20_000, pixels))
    assert "20000 x 20000 pixels, more than" in refusal(tmp_path / "a.tif")


def tiled(side: int, pixels: bytes) -> bytes:
    """A gray TIFF of 40 x 30 pixels in one tile of ``side``, compressed by deflate."""
    tags = {256: 40, 257: 30, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(pixels)}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + pixels


def test_an_animated_webp_may_have_half_as_many(tmp_path: Path) -> None:
    content = encoded(noise(), "WEBP", save_all=True, append_images=[noise().rotate(180)])
    (tmp_path / "a.webp").write_bytes(content)
    assert decode_image(tmp_path / "a.webp", 2400).shape == (3, 30, 40)
    assert "40 x 30 pixels, more than half of --max-pixels" in refusal(
        tmp_path / "a.webp", max_pixels=2399
    )


def scanned(scans: int) -> bytes:
    """A progressive JPEG with ``scans`` more scans than it needs."""
    whole = encoded(noise(), "JPEG", progressive=True)
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + b"\xff\xd9"


def test_scans_beyond_all_need_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(scanned(0))
    usual = count_scans(scanned(0))
    assert 5 <= usual <= 20
    (tmp_path / "a.jpg").write_bytes(scanned(MAX_SCANS - usual))
    assert decode_image(tmp_path / "a.jpg").shape == (3, 30, 40)
    (tmp_path / "a.jpg").write_bytes(scanned(MAX_SCANS - usual + 1))
    assert f"a JPEG of {MAX_SCANS + 1} scans" in refusal(tmp_path / "a.jpg")


def test_what_lies_behind_a_jpeg_has_no_scans(tmp_path: Path) -> None:
    """Phones hang films behind their pictures, in which any bytes may be."""
    (tmp_path / "a.jpg").write_bytes(scanned(0) + b"\xff\xda\0\2" * 999)
    assert decode_image(tmp_path / "a.jpg").shape == (3, 30, 40)


def test_a_header_of_millions_of_pieces_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + b"\xff\xe0\0\2" * 2_000_000)
    assert "the file is in more than 300000 pieces" in refusal(tmp_path / "a.jpg")


# Damage.
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, form: str) -> None:
    whole = encoded(noise(), form)
    for part in (0.02, 0.3, 0.6, 0.9):
        (tmp_path / "a").write_bytes(whole[: int(part * len(whole))])
        refusal(tmp_path / "a")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    whole = bytearray(encoded(noise(), "PNG"))
    whole[len(whole) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(whole)
    assert refusal(tmp_path / "a.png").startswith("cannot decode the image: ")


def test_a_bomb_of_text_is_refused(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000), 9))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 4))
    (tmp_path / "a.png").write_bytes(png(1, 1, text, pixels, chunk(b"IEND", b"")))
    assert "Decompressed data too large" in refusal(tmp_path / "a.png")


def test_running_out_of_memory_is_told_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    noise().save(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail, raising=False)
    assert refusal(tmp_path / "a.png") == "cannot decode the image: MemoryError"


# More than one image.
@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_images_the_first_is_taken_and_that_is_noted(tmp_path: Path, form: str) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if form == "WEBP" else {}
    path = tmp_path / "a"
    path.write_bytes(encoded(frames[0], form, save_all=True, append_images=frames[1:], **options))
    notes: list[str] = []
    assert decode_image(path, note=notes.append)[:, 5, 7].tolist() == [255, 0, 0]
    assert notes == [f"{path}: the first image of several in this {form} was taken"]
    path.write_bytes(encoded(frames[0], form))
    decode_image(path, note=notes.append)
    assert len(notes) == 1


def test_the_extras_of_a_phones_picture_are_not_noted(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[noise()])
    notes: list[str] = []
    assert decode_image(tmp_path / "a.jpg", note=notes.append).shape == (3, 30, 40)
    assert not notes


# Threads.
def test_threads_decode_at_once_and_leave_the_warnings_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(), "PNG"))
    expected, before = decode_image(tmp_path / "a.png"), list(warnings.filters)
    same: list[bool] = []

    def work() -> None:
        same.extend(decode_image(tmp_path / "a.png").equal(expected) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 400
    assert list(warnings.filters) == before


def test_the_limits_are_those_that_are_documented() -> None:
    assert (image_file.MAX_BYTES, image_file.MAX_READS) == (200_000_000, 300_000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_file_without_its_end_is_known_by_what_its_format_says(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    whole = file.getvalue()
    assert not is_cut_off(whole)
    for share in (0.3, 0.9):
        assert is_cut_off(whole[: int(share * len(whole))])


def test_other_files_are_not_called_cut_off() -> None:
    assert not is_cut_off(b"")
    assert not is_cut_off(b"P6 1 1 255")
