# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from effdet.errors import DataError, UsageError
from effdet.inference import Detector
from effdet.structures import Detections

from .conftest import picture

RED, BLUE = (40, 30, 120, 90), (150, 20, 190, 130)


def image_with_both() -> Image.Image:
    return picture(("red", RED), ("blue", BLUE), size=(200, 140))


def assert_same(a: Detections, b: Detections) -> None:
    assert_close(a.boxes, b.boxes)
    assert_close(a.scores, b.scores)
    assert a.labels.tolist() == b.labels.tolist()


def test_boxes_are_in_pixels_of_the_original_image(detector: Detector) -> None:
    # Both a smaller and a larger picture than the network's 96 x 128 (height x width).
    for factor in (0.4, 1.0, 3.0):
        boxes = [tuple(round(v * factor) for v in box) for box in (RED, BLUE)]
        size = (round(200 * factor), round(140 * factor))
        found = detector.predict(picture(("red", boxes[0]), ("blue", boxes[1]), size=size))
        assert found.labels.tolist() == [0, 2]
        assert_close(found.boxes, torch.tensor(boxes).float(), rtol=0, atol=2.5 * max(1, factor))
        assert_close(found.scores, torch.tensor([3.0, 2.0]).sigmoid())


def test_a_file_a_pillow_image_and_a_tensor_are_the_same(
    detector: Detector, tmp_path: Path
) -> None:
    image = image_with_both()
    image.save(tmp_path / "a.png")
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    found = detector.predict(image)
    assert len(found) == 2
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), tensor):
        assert_same(detector.predict(source), found)


def test_a_list_gives_a_list_in_its_order_whatever_the_batch_size(detector: Detector) -> None:
    images = [
        image_with_both(),
        picture(size=(50, 300)),
        picture(("blue", (5, 5, 60, 60)), size=(64, 64)),
    ]
    singles = [detector.predict(image) for image in images]
    assert [len(found) for found in singles] == [2, 0, 1]
    detector.model.batches.clear()
    for found, expected in zip(detector.predict(images, batch_size=2), singles, strict=True):
        assert_same(found, expected)
    assert detector.model.batches == [2, 1]
    assert set(detector.model.sizes) == {detector.config.image_size}
    assert detector.predict([]) == []


def test_settings_of_one_call_do_not_stay(detector: Detector) -> None:
    image = image_with_both()
    assert len(detector.predict(image, score_threshold=0.9)) == 1
    assert len(detector.predict(image, max_detections=1)) == 1
    assert len(detector.predict(image)) == 2


def test_only_wanted_classes_are_found(detector: Detector) -> None:
    # Only the blue thing is wanted, so the better red one does not take its place.
    image = image_with_both()
    found = detector.predict(image, classes=["blue thing"], max_detections=1)
    assert found.labels.tolist() == [2]


def test_boxes_are_clipped_to_the_image(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = detector.model.forward
    twice_as_large = torch.tensor([0, 0, math.log(2), math.log(2)])[:, None, None]
    monkeypatch.setattr(
        detector.model,
        "forward",
        lambda x: (find(x)[0], [level + twice_as_large for level in find(x)[1]]),
    )
    image = picture(("red", (8, 20, 56, 40)), size=(64, 48))
    assert detector.predict(image).boxes.tolist() == [[0, 10, 64, 48]]
    free = detector.predict(image, clip_boxes=False)
    assert_close(free.boxes, torch.tensor([[-16.0, 10, 80, 50]]))


def test_a_file_is_turned_by_its_exif_orientation(detector: Detector, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    image_with_both().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert_same(detector.predict(tmp_path / "a.png"), detector.predict(image_with_both()))


def test_unknown_classes_and_settings_are_named(detector: Detector) -> None:
    with pytest.raises(UsageError, match="unknown class 'blue'; did you mean blue thing"):
        detector.predict([], classes=["blue"])
    with pytest.raises(UsageError, match=r"unknown setting 'threshold'.*score_threshold"):
        detector.predict([], threshold=0.5)
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        detector.predict([], batch_size=0)


def test_an_image_that_is_not_one_is_refused(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg"):
        detector.predict(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match=r"\[3, H, W\] uint8, got \[3, 8, 8\] torch.float32"):
        detector.predict(torch.zeros(3, 8, 8))
    with pytest.raises(DataError, match="a Pillow image: cannot decode the image: floating-point"):
        detector.predict(Image.new("F", (8, 8), -1.0))


def test_pillow_images_are_converted_as_files_are(detector: Detector, tmp_path: Path) -> None:
    from effdet.data.images import decode_image
    from effdet.inference.sources import read_image

    gray = Image.fromarray((np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8))
    clear = Image.new("RGBA", (8, 8), (9, 8, 7, 0))
    for image in (gray, clear):
        image.save(tmp_path / "a.png")
        assert read_image(image).equal(decode_image(tmp_path / "a.png"))
    assert read_image(clear).min() == 255
    detector.predict([gray, clear])
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:45])
    with (
        Image.open(tmp_path / "a.png") as late,
        pytest.raises(DataError, match=r"a\.png: cannot decode the image"),
    ):
        detector.predict(late)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_strips_give_finite_boxes_inside_them(detector: Detector, size: tuple[int, int]) -> None:
    found = detector.predict(Image.new("RGB", size, "red"), score_threshold=0.0)
    assert found.boxes.isfinite().all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([*size, *size])).all()
