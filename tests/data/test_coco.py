# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.annotations import Names
from effdet.data import CocoDataset, DataReport
from effdet.errors import DataError
from effdet.structures import ClassMap
from tests.data.conftest import Content, annotation

Make = Callable[..., CocoDataset]


def test_samples_have_xyxy_boxes_and_contiguous_labels(make: Make, content: Content) -> None:
    coco = make(content)
    assert (coco.class_map.names, coco.class_map.category_ids) == (("dog", "cat"), (3, 7))
    image, target = coco.load(0)
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 30, 40))
    assert image.eq(10).all()
    assert target.boxes.dtype == torch.float32
    assert target.boxes.tolist() == [[10, 5, 30, 15], [0, 0, 40, 30]]
    assert target.labels.tolist() == [0, 1]
    assert target.crowd.tolist() == [False, True]
    assert (target.image_id, target.scale, target.size) == (20, 1.0, (30, 40))


def test_images_keep_the_files_order_and_their_own_boxes(make: Make, content: Content) -> None:
    coco = make(content)
    assert len(coco) == 3
    assert coco.image_ids.tolist() == [20, 10, 30]
    assert coco.load(2)[1].boxes.tolist() == [[1, 2, 4, 6]]
    assert [coco.path(i).name for i in range(3)] == ["a.png", "b.png", "c.png"]


def test_an_image_without_boxes_is_kept(make: Make, content: Content) -> None:
    image, target = make(content).load(1)
    assert image.eq(20).all()
    assert target.boxes.shape == (0, 4)
    assert target.labels.dtype == torch.int64
    assert target.crowd.dtype == torch.bool


def test_a_file_without_annotations_is_all_background(make: Make, content: Content) -> None:
    coco = make(content | {"annotations": []})
    assert (coco.report.boxes, coco.report.empty_images) == (0, 3)
    assert coco.load(0)[1].boxes.shape == (0, 4)


def test_a_class_without_instances_keeps_its_index(make: Make, content: Content) -> None:
    content["categories"].append({"id": 5, "name": "cow"})
    coco = make(content)
    assert coco.class_map.category_ids == (3, 5, 7)
    assert coco.load(0)[1].labels.tolist() == [0, 2]


def test_category_ids_may_start_at_zero(make: Make, content: Content) -> None:
    content["categories"][1]["id"] = 0
    content["annotations"][1]["category_id"] = 0
    assert make(content).load(0)[1].labels.tolist() == [0, 1]


def test_boxes_are_clipped_or_dropped_and_counted(make: Make, content: Content) -> None:
    content["annotations"] = [
        annotation(20, 3, [30, 20, 20, 20]),  # half outside
        annotation(20, 3, [-5, -5, 10, 10]),
        annotation(20, 3, [0, 0, 40.004, 30]),  # a rounding overhang
        annotation(20, 3, [5, 5, 0, 4]),
        annotation(20, 3, [5, 5, 4, -1]),
        annotation(20, 3, [40, 0, 4, 4]),
        annotation(20, 3, [0, -9, 4, 4], iscrowd=1),
    ]
    coco = make(content)
    expected = [[30, 20, 40, 30], [0, 0, 5, 5], [0, 0, 40, 30]]
    assert coco.load(0)[1].boxes.tolist() == expected
    assert dataclasses.asdict(coco.report) == {
        "images": 3,
        "empty_images": 2,
        "boxes": 3,
        "crowd_boxes": 0,
        "clipped": 2,
        "dropped_no_area": 2,
        "dropped_outside": 2,
        "renamed": (),
        "no_id": 7,
        "no_area": 7,
        "no_iscrowd": 6,
        "whole_float": 0,
        "bool_iscrowd": 0,
        "polygons": 0,
    }


def test_report_is_one_line() -> None:
    counts = {"images": 9, "empty_images": 2, "boxes": 30, "crowd_boxes": 1, "clipped": 4}
    clean = DataReport(**counts, dropped_no_area=0, dropped_outside=0)
    start = "9 images (2 without boxes), 30 boxes (1 crowd), 4 clipped"
    assert str(clean) == f"{start}, 0 dropped"
    missing = {"no_id": 0, "no_area": 4, "no_iscrowd": 2}
    bad = DataReport(
        **counts, dropped_no_area=5, dropped_outside=1, renamed=((3, "cat", "kitten"),), **missing
    )
    assert bad.dropped == 6
    assert str(bad) == (
        f"{start}, 6 dropped (5 without area, 1 outside); "
        "missing fields filled in: 4 area, 2 iscrowd; "
        "1 category ids named otherwise than in the class map: 3 ('cat' for 'kitten')"
    )


def test_labels_follow_a_given_class_map(make: Make, content: Content) -> None:
    names, ids = ("cat", None, "dog", "cow"), (7, None, 3, 9)
    coco = make(content, ClassMap(names=names, category_ids=ids))
    assert coco.class_map.category_ids == ids
    assert coco.load(0)[1].labels.tolist() == [2, 0]


def test_a_category_outside_the_class_map_is_refused(make: Make, content: Content) -> None:
    with pytest.raises(DataError) as caught:
        make(content, ClassMap(names=("dog",), category_ids=(3,)))
    assert "categories: 1 of 2 ids are not among the model's (3): 7 (cat); use the" in str(
        caught.value
    )


def test_a_class_map_of_another_data_set_is_refused(make: Make, content: Content) -> None:
    with pytest.raises(DataError, match=r"id 3 is 'dog' here and 'car' there; .* another data set"):
        make(content, ClassMap(names=("car", "bus"), category_ids=(3, 7)))


def test_a_category_with_another_name_is_reported(make: Make, content: Content) -> None:
    class_map = ClassMap(names=("DOG", "kitten"), category_ids=(3, 7))
    assert make(content, class_map).report.renamed == ((7, "cat", "kitten"),)


def test_masks_and_other_fields_are_ignored(make: Make, content: Content) -> None:
    content["annotations"][0] |= {"segmentation": {"counts": "x"}, "area": None, "note": "?"}
    assert make(content).load(2)[1].boxes.tolist() == [[1, 2, 4, 6]]


def test_samples_do_not_share_memory_with_the_data_set(make: Make, content: Content) -> None:
    coco = make(content)
    coco.load(0)[1].boxes.zero_()
    assert coco.load(0)[1].boxes.tolist() == [[10, 5, 30, 15], [0, 0, 40, 30]]


def test_memory_is_a_few_arrays_whatever_the_size(make: Make, content: Content) -> None:
    """Forked workers copy every page of Python objects they touch, so there must be none."""
    coco = make(content)
    arrays = [
        value for value in vars(coco).values() if isinstance(value, np.ndarray | torch.Tensor)
    ]
    others = [
        value for value in vars(coco).values() if not isinstance(value, np.ndarray | torch.Tensor)
    ]
    assert len(arrays) == 6
    assert all(isinstance(value, Path | ClassMap | DataReport | Names | int) for value in others)
    arrays += list(vars(coco._names).values())
    assert len(arrays) == 8
    assert all(value.dtype != object for value in arrays)


def test_missing_image_files_are_found_at_once(
    make: Make, content: Content, tmp_path: Path
) -> None:
    coco = make(content)
    (tmp_path / "train" / "b.png").unlink()
    with pytest.raises(DataError, match=r"images\[1\].file_name: expected a file in .*b.png"):
        CocoDataset(coco.annotations, coco.images)


def test_file_names_may_hold_folders(make: Make, content: Content, tmp_path: Path) -> None:
    make(content)
    for image in content["images"]:
        image["file_name"] = f"train/{image['file_name']}"
    (tmp_path / "nested.json").write_text(json.dumps(content))
    assert CocoDataset(tmp_path / "nested.json", tmp_path).load(0)[0].shape == (3, 30, 40)


def test_an_image_of_another_size_is_refused_when_loaded(
    make: Make, content: Content, tmp_path: Path
) -> None:
    coco = make(content)
    Image.new("RGB", (41, 30)).save(tmp_path / "train" / "a.png")
    with pytest.raises(DataError, match=r"a.png: the image is 41 x 30 .* records 40 x 30"):
        coco.load(0)
