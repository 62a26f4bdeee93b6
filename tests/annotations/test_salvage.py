# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effdet.annotations import AnnotationError, collect_annotations, salvage_annotations


def content() -> dict[str, Any]:
    """Three images with two boxes each, of two categories."""
    return {
        "images": [
            {"id": k, "file_name": f"{k}.jpg", "width": 64, "height": 48} for k in (1, 2, 3)
        ],
        "annotations": [
            {"id": 10 * k + c, "image_id": k, "category_id": c, "bbox": [k, c, 10, 10]}
            for k in (1, 2, 3)
            for c in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def test_without_faults_it_is_what_is_read_anyway() -> None:
    table, faults = salvage_annotations(content())
    strict, _ = collect_annotations(content())
    assert not len(faults)
    assert table is not None
    assert strict is not None
    assert table.ids.tolist() == strict.ids.tolist() == [11, 12, 21, 22, 31, 32]
    assert np.array_equal(table.boxes, strict.boxes)


def test_wrong_rows_are_left_out_and_what_refers_to_them() -> None:
    spoilt = content()
    spoilt["annotations"][1]["bbox"] = [1, 2]
    spoilt["images"][1]["id"] = "2"
    spoilt["annotations"].append({"id": 99, "image_id": 1, "category_id": 9, "bbox": [1, 1, 2, 2]})
    table, faults = salvage_annotations(spoilt)
    assert table is not None
    assert table.image_ids.tolist() == [1, 3]
    assert table.ids.tolist() == [11, 31, 32]
    assert table.image_index.tolist() == [0, 1, 1]
    assert table.category_index.tolist() == [0, 0, 1]
    assert list(table.file_names) == ["1.jpg", "3.jpg"]
    assert dict(faults.counts) == {"id": 1, "box": 1, "unknown-image": 2, "unknown-category": 1}


def test_of_a_repeated_id_the_first_row_stays() -> None:
    spoilt = content()
    spoilt["images"].append({"id": 1, "file_name": "4.jpg", "width": 8, "height": 8})
    table, _ = salvage_annotations(spoilt)
    assert table is not None
    assert table.image_ids.tolist() == [1, 2, 3]
    assert table.image_index.tolist() == [0, 0, 1, 1, 2, 2]


def test_images_without_size_and_categories_without_name_stay() -> None:
    spoilt = content()
    spoilt["images"][0]["width"] = 0
    del spoilt["categories"][0]["name"]
    table, faults = salvage_annotations(spoilt)
    assert table is not None
    assert table.sizes.tolist() == [[0, 0], [48, 64], [48, 64]]
    assert len(table.category_ids) == 2
    assert len(table.ids) == 6
    assert len(faults) == 2


@pytest.mark.parametrize("key", ["images", "categories"])
def test_where_nothing_is_left_there_is_no_table(key: str) -> None:
    spoilt = content()
    spoilt[key] = [{"id": None}]
    assert salvage_annotations(spoilt)[0] is None


def test_text_that_is_no_json_is_a_fault_and_a_missing_file_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"images": [')
    table, faults = salvage_annotations(file)
    assert table is None
    assert dict(faults.counts) == {"syntax": 1}
    with pytest.raises(AnnotationError, match="no such annotation file"):
        salvage_annotations(tmp_path / "b.json")
