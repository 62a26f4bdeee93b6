# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.data.images import decode_annotated, decode_image, inspect_image, read_size
from effdet.data.pixels import TRANSPARENT_BACKGROUND
from effdet.errors import DataError

# Rows of a 2 x 3 image with six different grays, and how each EXIF orientation means it to be seen.
STORED = [[10, 20, 30], [40, 50, 60]]
UPRIGHT = {
    1: [[10, 20, 30], [40, 50, 60]],
    2: [[30, 20, 10], [60, 50, 40]],
    3: [[60, 50, 40], [30, 20, 10]],
    4: [[40, 50, 60], [10, 20, 30]],
    5: [[10, 40], [20, 50], [30, 60]],
    6: [[40, 10], [50, 20], [60, 30]],
    7: [[60, 30], [50, 20], [40, 10]],
    8: [[30, 60], [20, 50], [10, 40]],
}


def save(path: Path, image: Image.Image, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def gray(values: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(values, np.uint8))


def test_pixels_are_rgb_uint8_with_the_channels_first(tmp_path: Path) -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = decode_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert image.tolist() == [[[1, 4]], [[2, 5]], [[3, 6]]]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied_exactly_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    image, exif = gray(STORED).convert("RGB"), Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    assert decode_image(path)[0].tolist() == UPRIGHT[orientation]


def test_jpeg_orientation_turns_the_image(tmp_path: Path) -> None:
    stored = np.zeros((32, 64), np.uint8)
    stored[:, 32:] = 255  # right half white; orientation 6 turns it a quarter clockwise: below
    path = save(tmp_path / "a.jpg", Image.fromarray(stored), 6)
    image = decode_image(path)
    assert image.shape == (3, 64, 32)
    assert image[:, :28].max() < 30
    assert image[:, 36:].min() > 225


def test_annotations_on_the_upright_image_get_the_upright_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", gray(STORED), 6)
    assert decode_annotated(path, (3, 2))[0].tolist() == UPRIGHT[6]


def test_annotations_that_fit_only_the_stored_image_get_the_stored_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", gray(STORED), 6)
    assert decode_annotated(path, (2, 3))[0].tolist() == STORED


def test_where_both_fit_the_orientation_is_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", gray(STORED), 3)
    assert decode_annotated(path, (2, 3))[0].tolist() == UPRIGHT[3]


def test_a_recorded_size_that_fits_neither_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", gray(STORED), 6)
    with pytest.raises(DataError, match=r"a.png: the image is 2 x 3 \(width x height\) .* 4 x 3"):
        decode_annotated(path, (3, 4))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_leaves_the_image_as_stored(tmp_path: Path) -> None:
    gray(STORED).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert decode_image(tmp_path / "a.png")[0].tolist() == STORED


def test_grayscale_has_three_equal_channels(tmp_path: Path) -> None:
    gray(STORED).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png").tolist() == [STORED] * 3


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png")[1].tolist() == [[0, 255]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = decode_image(tmp_path / "a.jpg")[:, 8, 8].tolist()
    assert red > 245
    assert max(green, blue) < 10


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([200, 10, 20, 1, 2, 3])
    image.save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png")[:, 0].T.tolist() == [[200, 10, 20], [1, 2, 3]]


def test_transparent_palette_entry_shows_the_background(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([200, 10, 20, 1, 2, 3])
    image.save(tmp_path / "a.png", transparency=0)
    pixels = decode_image(tmp_path / "a.png")[:, 0].T.tolist()
    assert pixels == [list(TRANSPARENT_BACKGROUND), [1, 2, 3]]


@pytest.mark.parametrize("alpha", [0, 255])
def test_hidden_colours_do_not_show(tmp_path: Path, alpha: int) -> None:
    Image.new("RGBA", (2, 2), (200, 10, 20, alpha)).save(tmp_path / "a.png")
    expected = (200, 10, 20) if alpha else TRANSPARENT_BACKGROUND
    assert decode_image(tmp_path / "a.png")[:, 0, 0].tolist() == list(expected)


def test_half_transparent_gray_is_mixed_with_the_background(tmp_path: Path) -> None:
    Image.new("LA", (1, 1), (55, 51)).save(tmp_path / "a.png")  # 51 / 255 = one fifth
    assert decode_image(tmp_path / "a.png")[:, 0, 0].tolist() == [215, 215, 215]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.array([[0, 128, 129, 25700, 65535]], np.uint16)).save(path)
    assert decode_image(path)[0].tolist() == [[0, 0, 1, 100, 255]]


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (7, 8, 9)).save(tmp_path / "a.png")
    assert decode_image(str(tmp_path / "a.png")).tolist() == [[[7]], [[8]], [[9]]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp"])
def test_truncated_file_is_refused_in_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        DataError, match=rf"a.{suffix}: (cannot decode the image: .|not an image)"
    ) as caught:
        decode_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_a_size_read_from_the_header_is_that_of_the_upright_image(
    tmp_path: Path, kind: str, orientation: int | None
) -> None:
    path = tmp_path / f"a.{kind}"
    image = Image.new("RGB", (30, 20))
    if orientation is None or kind in ("bmp", "gif"):
        image.save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)
    size = decode_image(path).shape[1:]
    assert read_size(path) == tuple(size)
    assert size == ((30, 20) if orientation in (6, 8) and kind not in ("bmp", "gif") else (20, 30))


def test_a_size_behind_a_long_head_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (30, 20)).save(path, icc_profile=bytes(200_000))
    assert read_size(path) == (20, 30)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"a.jpg: "):
        read_size(path)


def test_an_inspected_image_is_as_stored_and_knows_how_it_is_turned(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)
    stored = inspect_image(path)
    assert (stored.size, stored.upright_size, stored.orientation) == ((20, 30), (30, 20), 6)
    assert torch.equal(stored.pixels, torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(stored.upright(), decode_image(path))
    assert (stored.mode, stored.has_more) == ("RGB", False)
    same = tmp_path / "b.png"
    same.write_bytes(path.read_bytes())
    assert inspect_image(same).digest() == stored.digest()
    same.write_bytes(path.read_bytes() + b"\0")
    assert inspect_image(same).digest() != stored.digest()
