# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from effdet.errors import DataError, UsageError
from effdet.structures import Batch, ClassMap, Detections, Target

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def target(num_boxes: int = 2) -> Target:
    return Target(
        boxes=torch.ones(num_boxes, 4),
        labels=torch.arange(num_boxes),
        crowd=torch.zeros(num_boxes, dtype=torch.bool),
        image_id=5,
        scale=0.5,
        size=(20, 30),
    )


def test_a_moved_target_keeps_all_but_the_device() -> None:
    moved = target().to("meta")
    assert {t.device.type for t in (moved.boxes, moved.labels, moved.crowd)} == {"meta"}
    assert (moved.image_id, moved.scale, moved.size) == (5, 0.5, (20, 30))


def test_a_batch_moves_images_and_targets_in_the_wanted_memory_format() -> None:
    batch = Batch(images=torch.rand(2, 3, 4, 6), targets=[target(), target(0)])
    assert len(batch) == 2
    moved = batch.to("cpu")
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.images, batch.images)
    plain = moved.to("cpu", channels_last=False)
    assert plain.images.is_contiguous()
    assert batch.to("meta").targets[1].boxes.device.type == "meta"


def test_detections_are_selected_together() -> None:
    found = Detections(
        boxes=torch.arange(12.0).reshape(3, 4),
        scores=torch.tensor([0.9, 0.5, 0.1]),
        labels=torch.tensor([2, 0, 1]),
    )
    assert len(found) == 3
    sure = found[found.scores > 0.3]
    assert sure.labels.tolist() == [2, 0]
    assert sure.boxes[1].tolist() == [4, 5, 6, 7]
    assert len(found[:0]) == 0
    assert found.to("meta").scores.device.type == "meta"


def test_classes_are_numbered_by_rising_category_id() -> None:
    class_map = ClassMap.from_categories(CATEGORIES)
    assert class_map == ClassMap(("dog", "cat"), (3, 7))
    assert class_map.index_of == {3: 0, 7: 1}
    assert len(class_map) == 2


def test_published_weights_have_slot_id_minus_one_and_unnamed_gaps() -> None:
    class_map = ClassMap.from_sparse(CATEGORIES, 8)
    assert len(class_map) == 8
    assert class_map.named == (2, 6)
    assert class_map.index_of == {3: 2, 7: 6}
    assert class_map.name(6) == "cat"
    assert class_map.name(0) == "unnamed 0"


def test_a_category_without_slot_is_refused() -> None:
    with pytest.raises(DataError, match="category id 7 has no slot among 6 outputs"):
        ClassMap.from_sparse(CATEGORIES, 6)


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (("a", "b"), (1,), "2 names but 1 category ids"),
        (("a", "b"), (1, 1), "category ids must be unique"),
        (("a", None), (1, 2), "must both be given or both be None"),
        (("a", "b"), (1, None), "must both be given or both be None"),
        ((None,), (None,), "at least one class"),
        ((), (), "at least one class"),
    ],
)
def test_a_class_map_that_cannot_be_is_refused(
    names: tuple[str | None, ...], ids: tuple[int | None, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ClassMap(names, ids)


def test_names_give_indices_and_an_unknown_one_is_named_with_the_nearest() -> None:
    class_map = ClassMap.from_sparse(CATEGORIES, 8)
    assert class_map.indices(["cat", "dog"]) == [6, 2]
    assert class_map.indices([]) == []
    with pytest.raises(UsageError, match="unknown class 'cta'; did you mean cat"):
        class_map.indices(["cta"])


def test_a_class_map_survives_its_plain_values() -> None:
    class_map = ClassMap.from_sparse(CATEGORIES, 8)
    assert ClassMap.from_dict(class_map.to_dict()) == class_map


def test_a_target_without_boxes_has_the_types_of_any_other() -> None:
    target = Target.without_boxes((3, 4), 0.5)
    assert target.boxes.shape == (0, 4)
    assert (target.labels.dtype, target.crowd.dtype) == (torch.int64, torch.bool)
    assert (target.size, target.scale) == ((3, 4), 0.5)
