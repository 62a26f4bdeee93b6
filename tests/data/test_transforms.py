# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from effdet.config import IMAGENET_MEAN, IMAGENET_STD
from effdet.data.transforms import (
    EvalTransform,
    TrainTransform,
    crop_offset,
    hflip,
    jitter_size,
    letterbox,
    letterbox_size,
    place_image,
)
from effdet.errors import UsageError
from effdet.structures import Target

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""A mean and std that change nothing."""


def make_target(size: tuple[int, int], boxes: list[list[float]]) -> Target:
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        crowd=torch.zeros(len(boxes), dtype=torch.bool),
        image_id=5,
        scale=1.0,
        size=size,
    )


def noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def ramp(height: int, width: int) -> Tensor:
    """Pixel (y, x) has the values y, x, 0."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x, torch.zeros_like(y)]).to(torch.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Sizes and scales. The first three and their pixels are the reference's own output.
@pytest.mark.parametrize(
    ("size", "scaled", "scale_to_original"),
    [
        ((480, 640), (384, 512), 1.25),
        ((427, 640), (341, 512), 1.25),
        ((333, 500), (340, 512), 0.9765624403953552),
        ((512, 512), (512, 512), 1.0),
    ],
)
def test_letterbox_is_the_references(
    size: tuple[int, int], scaled: tuple[int, int], scale_to_original: float
) -> None:
    image = torch.ones(3, *size, dtype=torch.uint8)
    pixels, scale = letterbox(image, (512, 512), IMAGENET_MEAN, IMAGENET_STD)
    assert letterbox_size(size, (512, 512))[0] == scaled
    assert 1 / np.float32(scale) == np.float32(scale_to_original)
    expected = torch.tensor([-2.1007793, -2.0182073, -1.7870152])[:, None, None]
    torch.testing.assert_close(pixels[:, : scaled[0], : scaled[1]], expected.expand(3, *scaled))
    assert pixels[:, scaled[0] :].eq(0).all()
    assert pixels[:, :, scaled[1] :].eq(0).all()


def test_sizes_are_computed_in_single_precision() -> None:
    # 82 * float32(512 / 82) is 511.99997 in single precision, 512 in double.
    by_hand = [(n, int(np.float32(n) * (np.float32(512) / np.float32(n)))) for n in range(1, 1000)]
    short = [n for n, side in by_hand if side == 511]
    assert short
    for n in short:
        assert letterbox_size((n, n), (512, 512))[0] == (511, 511)


def test_a_strip_keeps_one_pixel() -> None:
    assert letterbox_size((1, 2000), (512, 512))[0] == (1, 512)
    assert jitter_size((2000, 1), (512, 512), 0.1)[0] == (51, 1)


def test_one_pixel_fills_the_square() -> None:
    pixels, scale = letterbox(torch.full((3, 1, 1), 9, dtype=torch.uint8), (4, 4), *PLAIN)
    assert scale == 4
    assert pixels.eq(9).all()


def test_half_pixel_centres_by_hand() -> None:
    # Two pixels to four: centres at -0.25, 0.25, 0.75, 1.25 of the source, clamped at its ends.
    image = torch.tensor([[[0, 100]]], dtype=torch.uint8).expand(3, 1, 2)
    pixels = place_image(image, (1, 4), (0, 0), (1, 4), *PLAIN)
    assert pixels[0].tolist() == [[0, 25, 75, 100]]


def test_there_is_no_antialias() -> None:
    # Eight pixels to two: only the two neighbours of each centre count, 1.5 and 5.5.
    image = torch.tensor([[[255, 0, 10, 255, 255, 20, 30, 255]]], dtype=torch.uint8)
    pixels = place_image(image.expand(3, 1, 8), (1, 2), (0, 0), (1, 2), *PLAIN)
    assert pixels[0].tolist() == [[5, 25]]


def test_normalising_after_the_resize_is_the_same_as_before() -> None:
    image, mean, std = noise(30, 40), torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    first = (image.float() - mean[:, None, None]) / std[:, None, None]
    expected = interpolate(first[None], size=(24, 32), mode="bilinear", align_corners=False)[0]
    pixels, _ = letterbox(image, (32, 32), IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(pixels[:, :24], expected, rtol=0, atol=2e-6)


def test_padding_is_the_mean_colour() -> None:
    mean = (10.0, 20.0, 30.0)
    image = torch.tensor(mean).to(torch.uint8)[:, None, None].expand(3, 4, 8)
    pixels, _ = letterbox(image, (16, 16), mean, (1.0, 2.0, 3.0))
    assert pixels.eq(0).all()


@pytest.mark.parametrize(("size", "scaled"), [((50, 100), (64, 128)), ((100, 50), (96, 48))])
def test_rectangular_input_is_height_by_width(
    size: tuple[int, int], scaled: tuple[int, int]
) -> None:
    transform = EvalTransform((96, 128), *PLAIN)
    image = torch.full((3, *size), 7, dtype=torch.uint8)
    pixels, target = transform(image, make_target(size, [[0, 0, size[1] / 2, size[0] / 2]]))
    assert pixels.shape == (3, 96, 128)
    assert pixels[0].ne(0).nonzero().amax(0).tolist() == [scaled[0] - 1, scaled[1] - 1]
    assert target.boxes.tolist() == [[0, 0, scaled[1] / 2, scaled[0] / 2]]


def test_boxes_move_with_the_letterbox_and_back() -> None:
    target = make_target((240, 320), [[16, 32, 160, 200]])
    _, moved = EvalTransform((128, 128), *PLAIN)(noise(240, 320), target)
    assert moved.scale == pytest.approx(0.4)
    torch.testing.assert_close(moved.boxes, torch.tensor([[6.4, 12.8, 64.0, 80.0]]))
    torch.testing.assert_close(moved.boxes / moved.scale, target.boxes)
    assert (moved.size, moved.image_id) == ((240, 320), 5)


def test_boxes_follow_the_size_that_was_cut_to_whole_pixels() -> None:
    # 427 * 0.8 = 341.6 rows become 341, and the boxes with them.
    target = make_target((427, 640), [[0, 0, 320, 427 / 2]])
    _, moved = EvalTransform((512, 512), *PLAIN)(noise(427, 640), target)
    assert moved.boxes.tolist() == [[0, 0, 256, 170.5]]
    assert moved.scale == pytest.approx(0.8)


def test_an_image_without_boxes_passes() -> None:
    for transform in (EvalTransform((64, 64), *PLAIN), TrainTransform((64, 64), *PLAIN)):
        _, target = transform(noise(20, 30), make_target((20, 30), []), rng())
        assert target.boxes.shape == (0, 4)
        assert target.labels.shape == target.crowd.shape == (0,)


def test_flipping_by_hand_and_twice() -> None:
    image, target = ramp(2, 10), make_target((2, 10), [[1, 0, 4, 2]])
    flipped, moved = hflip(image, target)
    assert flipped[1, 0].tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert moved.boxes.tolist() == [[6, 0, 9, 2]]
    again, back = hflip(flipped, moved)
    assert again.equal(image)
    assert back.boxes.equal(target.boxes)


@pytest.mark.parametrize(("flip", "expected"), [(0.0, [2, 4, 8, 10]), (1.0, [24, 4, 30, 10])])
def test_train_transform_without_jitter_is_letterbox_or_its_mirror(
    flip: float, expected: list[float]
) -> None:
    transform = TrainTransform((32, 32), *PLAIN, jitter=(1.0, 1.0), flip=flip)
    image = noise(16, 16)
    pixels, target = transform(image, make_target((16, 16), [[1, 2, 4, 5]]), rng())
    source = image.flip(-1) if flip else image
    assert pixels.equal(letterbox(source, (32, 32), *PLAIN)[0])
    assert target.boxes.tolist() == [expected]


def test_jitter_size_is_the_references_by_hand() -> None:
    # 0.75 * 100 = 75 by 75; 75 / 80 = 0.9375 fits the width; 60 * 0.9375 = 56.25 is cut.
    assert jitter_size((60, 80), (100, 100), 0.75) == ((56, 75), 0.9375)


def test_crop_offset_is_cut_to_whole_pixels_and_never_negative() -> None:
    assert crop_offset((130, 90), (100, 100), (0.55, 0.9)) == (16, 0)
    assert crop_offset((101, 300), (100, 100), (0.999, 0.0)) == (0, 0)


def test_crop_shows_the_part_at_its_offset() -> None:
    pixels = place_image(ramp(40, 60), (40, 60), (7, 11), (20, 30), *PLAIN)
    assert pixels[0, :, 0].tolist() == list(range(7, 27))
    assert pixels[1, 0].tolist() == list(range(11, 41))


def test_boxes_still_frame_their_object_after_any_jitter() -> None:
    transform = TrainTransform((64, 64), *PLAIN)
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    image[:, 20:40, 30:60] = 200
    seen = 0
    for seed in range(200):
        pixels, target = transform(image, make_target((60, 80), [[30, 20, 60, 40]]), rng(seed))
        bright = (pixels[0] >= 100).nonzero()
        if len(target.boxes) == 0:
            assert len(bright) <= 64  # at most the last row or column, which boxes do not reach
            continue
        if target.scale < 0.3:
            continue
        seen += 1
        y1, x1 = bright.amin(0).tolist()
        y2, x2 = (bright.amax(0) + 1).tolist()
        expected = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32)
        assert (target.boxes - expected).abs().max() <= 1.01
    assert seen > 100


def test_boxes_are_clipped_to_the_last_pixel_and_dropped_without_area() -> None:
    transform = TrainTransform((10, 10), *PLAIN, jitter=(2.0, 2.0), flip=0.0)
    boxes = [[0, 0, 10, 10], [0, 0, 1, 1], [9, 9, 10, 10]]

    class Middle:
        """Draws that put the crop of 10 x 10 at (5, 5) of 20 x 20."""

        def random(self, count: int) -> list[float]:
            return [0.9, 0.5, 0.5, 0.5]

    _, target = transform(noise(10, 10), make_target((10, 10), boxes), Middle())  # type: ignore[arg-type]
    assert target.boxes.tolist() == [[0, 0, 9, 9]]
    assert target.labels.tolist() == [0]
    assert target.scale == 2


def test_a_crowd_region_stays_a_crowd_region() -> None:
    target = make_target((32, 32), [[0, 0, 16, 16], [8, 8, 30, 30]])
    target.crowd[1] = True
    _, moved = EvalTransform((64, 64), *PLAIN)(noise(32, 32), target)
    assert moved.crowd.tolist() == [False, True]


def test_augmentation_is_a_pure_function_of_the_generator() -> None:
    transform = TrainTransform((64, 64), IMAGENET_MEAN, IMAGENET_STD)
    image, target = noise(50, 70), make_target((50, 70), [[5, 5, 40, 40]])
    torch.manual_seed(1)
    first, moved = transform(image, target, rng(3))
    torch.manual_seed(2)
    np.random.default_rng(9).random()
    again, moved_again = transform(image, target, rng(3))
    other, _ = transform(image, target, rng(4))
    assert first.equal(again)
    assert moved.boxes.equal(moved_again.boxes)
    assert not first.equal(other)


def test_jitter_and_flip_have_their_distribution() -> None:
    transform = TrainTransform((64, 64), *PLAIN, jitter=(0.5, 1.5), flip=0.25)
    image, target = ramp(64, 64), make_target((64, 64), [])
    results = [transform(image, target, rng(seed)) for seed in range(400)]
    scales = np.array([moved.scale for _, moved in results])
    assert (scales.min(), scales.max()) == (
        pytest.approx(0.5, abs=0.03),
        pytest.approx(1.5, abs=0.03),
    )
    assert scales.mean() == pytest.approx(1.0, abs=0.05)
    flipped = [bool(pixels[1, 0, 0] > pixels[1, 0, 8]) for pixels, _ in results]
    assert np.mean(flipped) == pytest.approx(0.25, abs=0.07)


def test_transforms_leave_their_input_alone() -> None:
    image, target = noise(50, 70), make_target((50, 70), [[5, 5, 40, 40]])
    pixels, boxes = image.clone(), target.boxes.clone()
    for seed in range(4):
        TrainTransform((64, 64), *PLAIN)(image, target, rng(seed))
    EvalTransform((64, 64), *PLAIN)(image, target)
    assert image.equal(pixels)
    assert target.boxes.equal(boxes)


@pytest.mark.parametrize("jitter", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_impossible_jitter_is_refused(jitter: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=r"jitter must be 0 < low <= high, got \("):
        TrainTransform((64, 64), *PLAIN, jitter=jitter)


@pytest.mark.parametrize("flip", [-0.1, 1.1])
def test_impossible_flip_is_refused(flip: float) -> None:
    with pytest.raises(UsageError, match=rf"flip must be in \[0, 1\], got {flip}"):
        TrainTransform((64, 64), *PLAIN, flip=flip)
