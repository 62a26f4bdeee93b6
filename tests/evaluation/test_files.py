# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from effdet.errors import DataError
from effdet.evaluation.coco import score_files
from effdet.evaluation.files import GroundTruth, load_results

TRUTH: dict[str, Any] = {
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
        (("images", None), "images: expected a list, found null"),
        (("images", []), "images: expected at least one row"),
        (("images", 1, "id", 4), r"images\[1\].id: expected an id of its own"),
        (("images", 0, "width", "4"), r"images\[0\].width: .* found '4'"),
        (("annotations", 0, "image_id", 5), r"annotations\[0\].image_id: .* found 5 \(id 0\)"),
        (("annotations", 0, "bbox", [1, 2, 3]), r"bbox: expected 4 finite .* found \[1, 2, 3\]"),
    ],
)
def test_a_bad_ground_truth_names_file_place_and_value(
    tmp_path: Path, path: tuple[Any, ...], message: str
) -> None:
    file = write(tmp_path / "truth.json", with_value(TRUTH, *path))
    with pytest.raises(DataError, match=f"truth.json: .*{message}"):
        GroundTruth.load(file)


def test_boxes_of_negative_size_are_left_out_and_counted_and_empty_ones_stay() -> None:
    rows = [TRUTH["annotations"][0] | {"id": k, "bbox": [1, 2, 3, h]} for k, h in ((1, -1), (2, 0))]
    truth = GroundTruth.load(TRUTH | {"annotations": rows})
    assert [row["bbox"] for row in truth.annotations] == [[1, 2, 3, 0]]
    assert truth.num_left_out == 1
    with pytest.raises(DataError, match=r"annotations\[0\].bbox: expected a width and a height"):
        GroundTruth.load(TRUTH | {"annotations": rows}, strict=True)


def test_a_results_file_is_not_a_ground_truth(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"\$: expected an object with .* found a list \(a results file\?\)"
    ):
        GroundTruth.load(write(tmp_path / "results.json", [ENTRY]))


def test_results_are_read_in_order_of_image_id(tmp_path: Path) -> None:
    rows = [ENTRY, ENTRY | {"image_id": 4, "score": 1}, ENTRY | {"score": 0.75}]
    results = load_results(write(tmp_path / "results.json", rows), GroundTruth.load(TRUTH))[0]
    assert list(results) == [rows[1], rows[0], rows[2]]
    assert len(results) == 3


def test_whole_numbers_with_a_point_are_counted_or_refused(tmp_path: Path) -> None:
    rows = [ENTRY | {"image_id": float(ENTRY["image_id"])}, ENTRY | {"category_id": 2.0}, ENTRY]
    file = write(tmp_path / "results.json", rows)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    truth, lines = GroundTruth.load(TRUTH), list[str]()
    results, num_mended = load_results(file, truth)
    assert (len(results), num_mended) == (3, 2)
    score_files(truth, file, note=lines.append)
    assert lines == [f"{file}: 2 values of another type read as numbers"]
    with pytest.raises(
        DataError, match=r"results.json: 2 x whole number with a point: \[0\]\.imag"
    ):
        score_files(truth, file, strict=True)


def test_an_empty_results_file_is_no_detections(tmp_path: Path) -> None:
    results = load_results(write(tmp_path / "results.json", []), GroundTruth.load(TRUTH))[0]
    assert (len(results), list(results)) == (0, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "image_id: expected the id of one of the 2 images .* found 5"),
        ({"image_id": 9.5}, "image_id: expected an integer of 64 bits, found 9.5"),
        ({"image_id": True}, "image_id: expected an integer of 64 bits, found true"),
        ({"category_id": 1}, "category_id: expected the id of one of the 2 categories .* found 1"),
        ({"category_id": None}, "category_id: expected an integer of 64 bits, found null"),
        ({"bbox": [1, 2, 3]}, r"bbox: expected 4 finite numbers .* found \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, float("inf")]}, "bbox: expected 4 finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, r"bbox: .* sizes 0 or more, found \[1, 2, -3, 4\]"),
        ({"score": float("nan")}, "score: expected a finite number, found nan"),
        ({"score": None}, "score: expected a finite number, found null"),
        ({"score": "0.5"}, "score: expected a finite number, found '0.5'"),
    ],
)
def test_a_bad_entry_names_file_entry_field_and_value(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "results.json", [ENTRY, ENTRY | change])
    with pytest.raises(DataError, match=rf"results.json: \[1\]\.{message}"):
        load_results(file, GroundTruth.load(TRUTH))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    entry = {key: value for key, value in ENTRY.items() if key != "bbox"}
    with pytest.raises(DataError, match=r"\[0\].bbox: expected 4 .* found no such key"):
        load_results(write(tmp_path / "results.json", [entry]), GroundTruth.load(TRUTH))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    truth = GroundTruth.load(TRUTH)
    with pytest.raises(DataError, match=r"none.json: no such results file"):
        load_results(tmp_path / "none.json", truth)
    (tmp_path / "half.json").write_text('[{"image_id": 9, ')
    with pytest.raises(DataError, match=r"half.json: line 1 column 18: expected JSON"):
        load_results(tmp_path / "half.json", truth)
    with pytest.raises(DataError, match=r"\$: expected a list of entries, found an object"):
        load_results(write(tmp_path / "dict.json", {}), truth)
