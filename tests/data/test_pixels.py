# SPDX-License-Identifier: Apache-2.0
"""Modes of Pillow images that the files in test_images.py do not have."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.data import pixels
from effdet.data.images import decode_image
from effdet.data.pixels import TRANSPARENT_BACKGROUND, image_to_tensor


def grays(values: list[float], kind: type = np.float32) -> Image.Image:
    return Image.fromarray(np.array([values], kind))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 1, 2.6, 255], [0, 1, 3, 255]),
        ([0, 128, 129, 25700, 65535], [0, 0, 1, 100, 255]),
        ([0, 0], [0, 0]),
    ],
)
def test_the_largest_float_says_what_the_range_is(
    values: list[float], expected: list[int], tmp_path: Path
) -> None:
    assert image_to_tensor(grays(values))[0, 0].tolist() == expected
    grays(values).save(tmp_path / "a.tif")
    assert decode_image(tmp_path / "a.tif").tolist() == [[expected]] * 3


@pytest.mark.parametrize("odd", [-0.1, 65536.0, float("nan"), float("inf"), -float("inf")])
def test_floats_beyond_every_range_are_refused(odd: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], \[0, 255\] or \[0, 65535\], found"):
        image_to_tensor(grays([odd, 0.5]))


@pytest.mark.parametrize("odd", [-1, 65536])
def test_integers_beyond_16_bits_are_refused(odd: int) -> None:
    with pytest.raises(ValueError, match="are not 16-bit"):
        image_to_tensor(grays([odd, 5], np.int32))


def test_every_16_bit_gray_is_rounded_to_the_nearest() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(every * (255 / 65535)).astype(np.uint8)
    assert (image_to_tensor(Image.fromarray(every))[1].numpy() == expected).all()


def test_the_transparent_gray_of_a_16_bit_image_shows_the_background(tmp_path: Path) -> None:
    grays([300, 301], np.uint16).save(tmp_path / "a.png", transparency=300)
    found = decode_image(tmp_path / "a.png")[:, 0].T.tolist()
    assert found == [list(TRANSPARENT_BACKGROUND), [1, 1, 1]]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("PA", (0, 0), TRANSPARENT_BACKGROUND),
        ("La", (0, 0), TRANSPARENT_BACKGROUND),
        ("RGBa", (0, 0, 0, 0), TRANSPARENT_BACKGROUND),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
    ],
)
def test_other_modes_become_rgb(
    mode: str, color: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    found = image_to_tensor(Image.new(mode, (2, 3), color))
    assert found.shape == (3, 3, 2)
    assert found[:, 2, 1].tolist() == pytest.approx(expected, abs=2)


def test_lab_and_cmyk_files_are_read(tmp_path: Path) -> None:
    for mode, color, expected in (("LAB", (255, 128, 128), 255), ("CMYK", (0, 0, 0, 0), 255)):
        Image.new(mode, (4, 4), color).save(tmp_path / "a.tif")
        assert decode_image(tmp_path / "a.tif").min() >= expected - 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F", "CMYK"])
def test_a_large_image_is_converted_as_a_small_one(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0).integers(0, 256, (23, 17, 4), np.uint8)
    odd = {"I;16": random[..., 0].astype(np.uint16) * 200, "F": random[..., 0].astype(np.float32)}
    whole = Image.fromarray(odd.get(mode, random))
    image = whole if mode in odd else whole.convert("RGB" if mode == "P" else "RGBA").convert(mode)
    expected = image_to_tensor(image)
    monkeypatch.setattr(pixels, "_AT_ONCE", 100)
    found = image_to_tensor(image)
    assert found.equal(expected)
    assert found.stride() == expected.stride() == (1, 51, 3)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="an image of 0 x 3 pixels has none"):
        image_to_tensor(Image.new("RGB", (0, 3)))
