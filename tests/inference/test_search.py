# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation."""

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.testing import assert_close

from effdet.inference import Detector
from effdet.inference.search import mirror
from effdet.structures import Detections

from .conftest import picture

RED, BLUE = (40, 30, 120, 90), (150, 20, 190, 130)


@pytest.fixture
def image() -> Image.Image:
    return picture(("red", RED), ("blue", BLUE), size=(200, 140))


def change_logits(
    monkeypatch: pytest.MonkeyPatch, detector: Detector, *, at_96: float, larger: float
) -> None:
    """Add to the logits of the looks that are 96 pixels high, and to those of larger ones."""
    find = detector.model.forward

    def changed(images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = find(images)
        change = at_96 if images.shape[2] == 96 else larger
        return [level + change for level in logits], deltas

    monkeypatch.setattr(detector.model, "forward", changed)


def test_the_image_is_seen_mirrored_and_larger(detector: Detector, image: Image.Image) -> None:
    found = detector.predict(image, tta=True)
    assert detector.model.sizes == [*[(96, 128)] * 2, *[(128, 128)] * 2, *[(128, 192)] * 2]
    assert found.labels.tolist() == [0, 2]
    assert_close(found.boxes, torch.tensor([RED, BLUE]).float(), rtol=0, atol=2)
    assert_close(found.scores, torch.tensor([3.0, 2.0]).sigmoid())  # as each look says


def test_a_mirrored_image_gives_mirrored_detections(detector: Detector, image: Image.Image) -> None:
    found = detector.predict(image, tta=True)
    mirrored = detector.predict(ImageOps.mirror(image), tta=True)
    assert_close(mirror(mirrored, 200).boxes, found.boxes, rtol=0, atol=1e-3)
    assert_close(mirrored.scores, found.scores)


def test_a_symmetric_image_gives_symmetric_detections(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model that errs to the right: only looking at the mirror image as well sets it straight.
    find = detector.model.forward

    def err(images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = find(images)
        return logits, [level + torch.tensor([0.1, 0, 0, 0])[:, None, None] for level in deltas]

    monkeypatch.setattr(detector.model, "forward", err)
    image = picture(("red", (60, 30, 140, 90)), size=(200, 140))
    x1, _, x2, _ = detector.predict(image).boxes[0].tolist()
    assert x1 + x2 > 201
    x1, _, x2, _ = detector.predict(image, tta=True).boxes[0].tolist()
    assert x1 + x2 == pytest.approx(200, abs=0.1)


def test_what_only_some_looks_find_is_less_sure(
    detector: Detector, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_logits(monkeypatch, detector, at_96=0, larger=-20)
    found = detector.predict(image, tta=True, score_threshold=0.25)
    assert_close(found.scores, torch.tensor([3.0, 2.0]).sigmoid() / 3)
    assert len(detector.predict(image, tta=True, score_threshold=0.3)) == 1


def test_a_look_that_is_not_sure_counts_with_the_others(
    detector: Detector, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_logits(monkeypatch, detector, at_96=-5, larger=0)
    scores = detector.predict(image, tta=True, score_threshold=0.3).scores
    sure, unsure = torch.tensor(3.0).sigmoid(), torch.tensor(-2.0).sigmoid()
    assert unsure < 0.3
    assert_close(scores[0], (4 * sure + 2 * unsure) / 6)


def test_a_batch_equals_its_singles(detector: Detector, image: Image.Image) -> None:
    images = [image, ImageOps.mirror(image), picture(size=(50, 90)), image.resize((300, 210))]
    together = detector.predict(images, tta=True, batch_size=3)
    for one, found in zip(images, together, strict=True):
        alone = detector.predict(one, tta=True)
        assert_close(found.boxes, alone.boxes)
        assert_close(found.scores, alone.scores)
    assert [len(found) for found in together] == [2, 2, 0, 2]


def test_augmentation_works_in_tiles_too(detector: Detector) -> None:
    image = picture(("red", (500, 300, 560, 345)), size=(1200, 1000))
    (box,) = detector.predict(image, tta=True, tile=256).boxes
    assert_close(box, torch.tensor([500.0, 300, 560, 345]), atol=5, rtol=0)


def test_mirrored_twice_is_the_same() -> None:
    boxes = torch.tensor([[3.0, 4, 10, 20]])
    found = Detections(boxes=boxes, scores=torch.ones(1), labels=torch.zeros(1).long())
    assert mirror(found, 50).boxes.tolist() == [[40, 4, 47, 20]]
    assert mirror(mirror(found, 50), 50).boxes.equal(boxes)
