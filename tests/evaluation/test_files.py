# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from effdet.errors import DataError
from effdet.evaluation.files import GroundTruth, load_results

TRUTH = {
    "images": [{"id": 4}, {"id": 9}],
    "annotations": [{"id": 0, "image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4]}],
    "categories": [{"id": 8, "name": "dog"}, {"id": 2, "name": "cat"}],
}
ENTRY = {"image_id": 9, "category_id": 8, "bbox": [1.5, 2, 3, 4], "score": 0.5}


def with_value(values: dict[str, Any], *path: Any) -> dict[str, Any]:
    """A copy of ``values`` with the last of ``path`` at the place that the rest names."""
    copy = json.loads(json.dumps(values))
    *place, key, value = path
    inner = copy
    for step in place:
        inner = inner[step]
    inner[key] = value
    return copy


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_file_and_its_content_are_the_same_ground_truth(tmp_path: Path) -> None:
    read = GroundTruth.load(write(tmp_path / "truth.json", TRUTH))
    assert read.to_coco() == GroundTruth.load(TRUTH).to_coco()
    assert read.image_ids == {4, 9}
    assert list(read.categories.items()) == [(2, "cat"), (8, "dog")]


def test_the_callers_ground_truth_is_left_as_it_is() -> None:
    before = json.dumps(TRUTH)
    GroundTruth.load(TRUTH).annotations[0]["ignore"] = 1
    assert json.dumps(TRUTH) == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("images", None), "no list 'images'"),
        (("images", []), "images is empty"),
        (("categories", []), "categories is empty"),
        (("images", 1, "id", 4), r"images\[1\]: id 4 is there twice"),
        (("images", 0, "id", "4"), r"images\[0\]: id must be an integer of 64 bits, got '4'"),
        (("categories", 0, {}), r"categories\[0\]: id must be an integer of 64 bits, got None"),
        (("annotations", 0, 3), r"annotations\[0\]: expected an object, got 3"),
        (("annotations", 0, "image_id", 5), r"annotations\[0\]: image_id 5 is not in"),
        (("annotations", 0, "category_id", 1), r"annotations\[0\]: category_id 1 is not in"),
        (("annotations", 0, "bbox", [1, 2, 3]), r"bbox must be 4 finite .* got \[1, 2, 3\]"),
        (("annotations", 0, "bbox", [1, 2, 3, float("nan")]), "bbox must be 4 finite"),
        (("annotations", 0, "iscrowd", 2), "iscrowd must be 0 or 1, got 2"),
        (("annotations", 0, "area", "big"), "area must be a finite number, got 'big'"),
    ],
)
def test_a_bad_ground_truth_names_file_place_and_value(
    tmp_path: Path, path: tuple[Any, ...], message: str
) -> None:
    file = write(tmp_path / "truth.json", with_value(TRUTH, *path))
    with pytest.raises(DataError, match=f"truth.json: .*{message}"):
        GroundTruth.load(file)


def test_a_results_file_is_not_a_ground_truth(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a COCO annotation file"):
        GroundTruth.load(write(tmp_path / "results.json", [ENTRY]))


def test_results_are_read_in_order_of_image_id(tmp_path: Path) -> None:
    rows = [ENTRY, ENTRY | {"image_id": 4, "score": 1}, ENTRY | {"score": 0.75}]
    results = load_results(write(tmp_path / "results.json", rows), GroundTruth.load(TRUTH))
    assert list(results) == [rows[1], rows[0], rows[2]]
    assert len(results) == 3


def test_an_empty_results_file_is_no_detections(tmp_path: Path) -> None:
    results = load_results(write(tmp_path / "results.json", []), GroundTruth.load(TRUTH))
    assert (len(results), list(results)) == (0, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "image_id 5 is not in the ground truth"),
        ({"image_id": 9.5}, "image_id must be an integer, got 9.5"),
        ({"image_id": True}, "image_id must be an integer, got True"),
        ({"category_id": 1}, "category_id 1 is not in the ground truth"),
        ({"category_id": None}, "category_id must be an integer, got None"),
        ({"bbox": [1, 2, 3]}, "bbox must be 4 finite numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "bbox must be 4 finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, r"bbox must be .* without negative sizes, got \[1, 2, -3, 4\]"),
        ({"score": float("nan")}, "score must be a finite number, got nan"),
        ({"score": None}, "score must be a finite number, got None"),
        ({"score": "0.5"}, "score must be a finite number, got '0.5'"),
    ],
)
def test_a_bad_entry_names_file_entry_field_and_value(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "results.json", [ENTRY, ENTRY | change])
    with pytest.raises(DataError, match=f"results.json: entry 1: {message}"):
        load_results(file, GroundTruth.load(TRUTH))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    entry = {key: value for key, value in ENTRY.items() if key != "bbox"}
    with pytest.raises(DataError, match=r"entry 0: bbox must be .* got None"):
        load_results(write(tmp_path / "results.json", [entry]), GroundTruth.load(TRUTH))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    truth = GroundTruth.load(TRUTH)
    with pytest.raises(DataError, match=r"none.json: cannot be read: No such file"):
        load_results(tmp_path / "none.json", truth)
    (tmp_path / "half.json").write_text('[{"image_id": 9, ')
    with pytest.raises(DataError, match=r"half.json: not a JSON file"):
        load_results(tmp_path / "half.json", truth)
    with pytest.raises(DataError, match="expected a list of entries, found dict"):
        load_results(write(tmp_path / "dict.json", {}), truth)
