# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.drawing import class_color
from effdet.errors import UsageError
from effdet.inference.draw import draw
from effdet.structures import ClassMap, Detections

CLASS_MAP = ClassMap(("cat", None, "a class with quite a long name"), (1, None, 3))
GRAY = (100, 100, 100)


def detections(*boxes: tuple[float, ...], label: int = 0) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.linspace(0.9, 0.5, len(boxes)),
        labels=torch.full((len(boxes),), label),
    )


def changed(picture: Image.Image) -> np.ndarray:
    """Which pixels of a picture are not plain gray."""
    return (np.array(picture) != GRAY).any(-1)


def text_of(picture: Image.Image, label: int = 0) -> np.ndarray:
    """Which pixels are neither plain gray nor the colour of the class: the letters."""
    return changed(picture) & (np.array(picture) != class_color(label)).any(-1)


def test_the_outline_lies_on_the_box_in_the_colour_of_the_class() -> None:
    picture = draw(Image.new("RGB", (200, 150), GRAY), detections((50, 60, 120, 110)), CLASS_MAP)
    for point in ((50, 80), (120, 80), (80, 110), (110, 60)):
        assert picture.getpixel(point) == class_color(0)
    assert picture.getpixel((80, 85)) == GRAY
    assert not changed(picture)[112:].any()


def test_the_label_is_filled_and_above_the_box() -> None:
    picture = draw(Image.new("RGB", (200, 150), GRAY), detections((50, 60, 120, 110)), CLASS_MAP)
    assert changed(picture)[48:60, 50:90].all()
    letters = text_of(picture)
    assert letters[48:60, 50:100].sum() > 50
    assert letters.sum() == letters[40:60, 50:120].sum()


@pytest.mark.parametrize("box", [(0, 0, 30, 30), (150, 2, 199, 40), (-50, -50, 500, 500)])
def test_a_label_at_the_border_stays_inside_and_whole(box: tuple[int, ...]) -> None:
    in_the_middle = draw(
        Image.new("RGB", (200, 150), GRAY), detections((60, 60, 63, 63)), CLASS_MAP
    )
    at_the_border = draw(Image.new("RGB", (200, 150), GRAY), detections(box), CLASS_MAP)
    assert text_of(at_the_border).sum() == text_of(in_the_middle).sum() > 50


def test_a_long_name_shrinks_to_fit_a_small_picture() -> None:
    picture = draw(
        Image.new("RGB", (160, 80), GRAY), detections((40, 40, 70, 70), label=2), CLASS_MAP
    )
    columns = np.flatnonzero(text_of(picture, label=2).any(0))
    assert 0 < columns[0] < 20
    assert 140 < columns[-1] < 159  # the score is there, and nothing is cut off


def test_lines_grow_with_the_picture() -> None:
    thickness = []
    for side in (200, 2000):
        image = Image.new("RGB", (side, side), GRAY)
        box = (side * 0.3, side * 0.3, side * 0.6, side * 0.6)
        thickness.append(changed(draw(image, detections(box), CLASS_MAP))[side // 2].sum() / 2)
    assert thickness[0] < thickness[1] / 4


def test_the_best_box_is_on_top() -> None:
    boxes = detections((50, 50, 100, 100), (50, 50, 100, 100))
    two_classes = Detections(boxes=boxes.boxes, scores=boxes.scores, labels=torch.tensor([2, 0]))
    picture = draw(Image.new("RGB", (150, 150), GRAY), two_classes, CLASS_MAP)
    assert picture.getpixel((100, 75)) == class_color(2)


def test_no_detections_leave_the_picture_as_it_is() -> None:
    assert not changed(draw(Image.new("RGB", (50, 40), GRAY), detections(), CLASS_MAP)).any()


def test_what_was_given_is_not_drawn_on() -> None:
    image = Image.new("RGB", (90, 90), GRAY)
    planes = torch.full((3, 90, 90), 100, dtype=torch.uint8)
    pixels = torch.full((90, 90, 3), 100, dtype=torch.uint8)
    for source in (image, planes, pixels.permute(2, 0, 1)):
        assert changed(draw(source, detections((30, 40, 60, 60)), CLASS_MAP)).any()
    assert not changed(image).any()
    assert (planes == 100).all()
    assert (pixels == 100).all()


def test_the_picture_is_written_where_wanted(tmp_path: Path) -> None:
    Image.new("RGB", (90, 90), GRAY).save(tmp_path / "in.png")
    picture = draw(
        tmp_path / "in.png", detections((30, 40, 60, 60)), CLASS_MAP, tmp_path / "out.png"
    )
    with Image.open(tmp_path / "out.png") as written:
        assert (np.array(written) == np.array(picture)).all()
    with pytest.raises(UsageError, match=r"out\.txt: unknown picture format"):
        draw(tmp_path / "in.png", detections(), CLASS_MAP, tmp_path / "out.txt")


def test_the_colours_of_90_classes_are_all_different() -> None:
    assert len({class_color(index) for index in range(90)}) == 90
    assert class_color(3) == class_color(3)
