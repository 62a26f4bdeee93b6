# SPDX-License-Identifier: Apache-2.0
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effdet.annotations import (
    AnnotationError,
    collect_annotations,
    faults,
    read_annotations,
    reading,
)
from effdet.annotations.rows import NO_ID
from effdet.evaluation import GroundTruth
from tests.annotations.conftest import Content

Refused = Callable[..., str]

AN_ID = "an integer of 64 bits"
SIDE = "a whole number of pixels from 1 to 1,000,000"
BOX = "4 finite numbers (x, y, width, height) below 1,000,000,000 pixels"
NAME = "a text of 1 to 1,000 characters"


def test_a_file_becomes_columns(content: Content, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    table = read_annotations(tmp_path / "a.json")
    assert table.image_ids.tolist() == [12, 0]
    assert table.sizes.tolist() == [[30, 40], [48, 16]]
    assert list(table.file_names) == ["a.jpg", "b/ü.jpg"]
    assert (table.category_ids.tolist(), table.category_names) == ([7, 3], ("cat", "dog"))
    assert table.class_map().names == ("dog", "cat")
    assert table.ids.tolist() == [93, 0, NO_ID]
    assert table.image_index.tolist() == [0, 1, 0]
    assert table.category_index.tolist() == [0, 1, 1]
    assert table.boxes.tolist() == [[1, 2, 3, 4], [0.5, 5, 2, 1], [3, 2, 3, 4]]
    assert table.areas.tolist() == [12.5, 2, 12]
    assert table.crowd.tolist() == [False, True, False]
    filled = {kind: rows.tolist() for kind, rows in table.filled.items()}
    assert filled == {"no-id": [2], "no-area": [1, 2], "no-iscrowd": [0]}


def test_a_file_and_its_content_are_the_same(content: Content, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content, indent=1))
    tables = [read_annotations(source) for source in (tmp_path / "a.json", content)]
    for one, two in zip(*(vars(table).values() for table in tables)):
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype
            assert one.tolist() == two.tolist()


def test_figures_need_neither_sizes_nor_names(content: Content, refused: Refused) -> None:
    for row in content["images"]:
        del row["width"], row["height"], row["file_name"]
    for row in content["categories"]:
        del row["name"]
    table = read_annotations(content, with_images=False)
    assert (table.sizes.tolist(), list(table.file_names)) == ([[0, 0], [0, 0]], ["", ""])
    assert table.category_names == ("", "")
    assert refused(content).startswith("8 x missing field: ")


@pytest.mark.parametrize("with_images", [True, False])
def test_a_file_without_annotations_has_none(
    content: Content, tmp_path: Path, with_images: bool
) -> None:
    del content["annotations"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    for source in (tmp_path / "a.json", content):
        table = read_annotations(source, with_images=with_images)
        assert (table.boxes.shape, table.image_ids.tolist()) == ((0, 4), [12, 0])
        assert GroundTruth.load(table, strict=True).annotations == []


def test_a_byte_order_mark_is_skipped(content: Content, tmp_path: Path) -> None:
    for annotation_id in (0, 0.0):  # by the fast and by the exact way
        content["annotations"][1]["id"] = annotation_id
        (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8-sig")
        assert read_annotations(tmp_path / "a.json").ids.tolist() == [93, 0, NO_ID]


def test_what_is_not_read_may_be_anything(content: Content, tmp_path: Path) -> None:
    content["annotations"][0] |= {"segmentation": {"counts": "id"}, "x": {"bbox": 1, "id": [None]}}
    content["images"][0] |= {"id2": 1, "note": '"id": "\\'}
    content["licenses"] = [{"id": 1, "name": "images"}] * 2
    content["n"] = {"annotations": 3}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_annotations(tmp_path / "a.json").boxes.shape == (3, 4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "line 1 column 1: expected JSON (Expecting value), found the end"),
        ("\n {]", "line 2 column 3: expected JSON (Expecting property name"),
        ("\ufeff\ufeff{}", "line 1 column 1: expected JSON (Unexpected UTF-8 BOM"),
        ("\ufeff{]", "line 1 column 2: expected JSON (Expecting property name"),
        ("\ufeff", "line 1 column 1: expected JSON (Expecting value), found the end"),
        (b'\xef\xbb\xbf{"\xe9"}', "line 1 column 3: expected text in UTF-8, found "),
        (b'{"images":\n "abc\xe9"}', "line 2 column 6: expected text in UTF-8, found "),
        ("{}".encode("utf-16"), "line 1 column 1: expected text in UTF-8, not in UTF-16, found "),
        ("{}".encode("utf-16-be"), "line 1 column 1: expected JSON (Expecting value), found "),
        (
            '{"a":' + 10**5 * "[" + 10**5 * "]" + "}",
            "line 1 column 505: expected at most 500 lists and objects within one another, found ",
        ),
        ("[]", "$: expected an object with images, annotations, categories, found a list (a resul"),
        ("7", "$: expected an object with images, annotations, categories, found 7"),
        ({"annotations": []}, "2 x wrong section: images: expected a list, found no such key; cat"),
        (
            {"annotations": None},
            "3 x wrong section: annotations: expected a list, found null; images: ",
        ),
    ],
)
def test_what_is_no_annotation_file_is_refused(refused: Refused, value: Any, message: str) -> None:
    assert refused(value).startswith(message)


def test_no_json_within_what_is_not_read_is_refused(content: Content, refused: Refused) -> None:
    for odd in ("NaN", "-Infinity", r'"\ud800"', "01", "1.", '"\t"', r'"\x"', "[1,]", "1 2"):
        text = json.dumps(content).replace("2026", odd)
        assert refused(text).startswith("line 1 column "), odd
        text = json.dumps(content | {"info": 1}).replace('"area": 12.5', f'"x": {odd}')
        assert refused(text).startswith("line 1 column "), odd
    assert refused(json.dumps(content) + " x").startswith("line 1 column ")
    assert refused(json.dumps(content)[:-1]).startswith("line 1 column ")


@pytest.mark.parametrize(
    ("section", "key", "expected", "about"),
    [
        ("images", "width", SIDE, " (image 0 'b/ü.jpg')"),
        ("images", "height", SIDE, " (image 0 'b/ü.jpg')"),
        ("images", "file_name", "a text", " (image 0)"),
        ("annotations", "image_id", AN_ID, " (id 0)"),
        ("annotations", "category_id", AN_ID, " (id 0, image 0 'b/ü.jpg')"),
        ("annotations", "bbox", BOX, " (id 0, image 0 'b/ü.jpg')"),
        ("categories", "name", NAME, " (id 3)"),
    ],
)
def test_a_missing_key_is_named(
    content: Content, refused: Refused, section: str, key: str, expected: str, about: str
) -> None:
    del content[section][1][key]
    message = f"{section}[1].{key}: expected {expected}, found no such key{about}"
    assert refused(content) == message


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("images", "id", "20", f"expected {AN_ID}, found '20'"),
        ("images", "id", 1.5, f"expected {AN_ID}, found 1.5"),
        ("images", "id", 2.0**53, f"expected {AN_ID}, found 9007199254740992.0"),
        ("images", "id", 12.0, "expected an id of its own, not that of images[0], found 12"),
        ("images", "id", True, f"expected {AN_ID}, found true"),
        ("images", "id", 2**63, f"expected {AN_ID}, found {2**63}"),
        ("images", "id", 12, "expected an id of its own, not that of images[0], found 12"),
        ("images", "file_name", "", "expected a text, found ''"),
        ("images", "file_name", "\ud800", "expected a text, found '\\ud800'"),
        ("images", "width", None, f"expected {SIDE}, found null"),
        ("images", "width", 640.5, f"expected {SIDE}, found 640.5"),
        ("images", "width", 0.0, f"expected {SIDE}, found 0.0"),
        ("images", "width", 0, f"expected {SIDE}, found 0"),
        ("images", "height", 10**6 + 1, f"expected {SIDE}, found 1000001"),
        ("annotations", "id", "?", f"expected {AN_ID}, found '?'"),
        ("annotations", "id", False, f"expected {AN_ID}, found false"),
        ("annotations", "image_id", None, f"expected {AN_ID}, found null"),
        (
            "annotations",
            "image_id",
            11.0,
            "expected the id of one of the 2 images (12, 0), found 11",
        ),
        ("annotations", "category_id", float("inf"), f"expected {AN_ID}, found inf"),
        (
            "annotations",
            "category_id",
            -(2.0**60),
            f"expected {AN_ID}, found -1.152921504606847e+18",
        ),
        ("annotations", "id", 93, "expected an id of its own, not that of annotations[0]"),
        ("annotations", "image_id", 11, "expected the id of one of the 2 images (12, 0), found 11"),
        ("annotations", "category_id", 4, "expected the id of one of the 2 categories (7, 3)"),
        ("annotations", "category_id", "7", f"expected {AN_ID}, found '7'"),
        ("annotations", "bbox", [1, 2, 3], f"expected {BOX}, found [1, 2, 3]"),
        ("annotations", "bbox", [1, 2, 3, 4, 5], f"expected {BOX}, found [1, 2, 3, 4, 5]"),
        ("annotations", "bbox", ["1", 2, 3, 4], f"expected {BOX}, found ['1', 2, 3, 4]"),
        ("annotations", "bbox", [1, 2, None, 4], f"expected {BOX}, found [1, 2, null, 4]"),
        ("annotations", "bbox", [1, 2, True, 4], f"expected {BOX}, found [1, 2, true, 4]"),
        ("annotations", "bbox", {"x": 1}, f"expected {BOX}, found {{'x': 1}}"),
        ("annotations", "bbox", [1, 2, float("nan"), 4], f"expected {BOX}, found [1, 2, nan, 4]"),
        ("annotations", "bbox", [1, 2, 10**400, 4], f"expected {BOX}, found [1, 2, 1000"),
        ("annotations", "bbox", [1, -1e9, 3, 4], f"expected {BOX}, found [1, -1000000000.0"),
        ("annotations", "area", -1, "expected a finite number, 0 or more, found -1"),
        ("annotations", "area", "big", "expected a finite number, 0 or more, found 'big'"),
        ("annotations", "area", float("inf"), "expected a finite number, 0 or more, found inf"),
        ("annotations", "iscrowd", 2, "expected 0 or 1, found 2"),
        ("annotations", "iscrowd", 2.0, "expected 0 or 1, found 2.0"),
        ("annotations", "iscrowd", 0.5, "expected 0 or 1, found 0.5"),
        ("annotations", "iscrowd", "0", "expected 0 or 1, found '0'"),
        ("categories", "name", 4, f"expected {NAME}, found 4"),
        ("categories", "name", "x" * 1001, f"expected {NAME}, found 'xxxx"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(
    content: Content, refused: Refused, section: str, key: str, value: object, message: str
) -> None:
    content[section][1][key] = value
    expected = f"{section}[1].{key}: {message}"
    refusals = refused(content).removeprefix("2 faults (1 x wrong id, 1 x unknown image): ")
    assert refusals.removeprefix("2 faults (1 x id used before, 1 x unknown image): ").startswith(
        expected
    )
    with pytest.raises(AnnotationError) as caught:
        read_annotations(content)
    assert expected in str(caught.value)


def test_a_number_beyond_all_bounds_is_named(content: Content, refused: Refused) -> None:
    text = json.dumps(content).replace("12.5", "1e999")
    assert refused(text).startswith("annotations[0].area: expected a finite number, 0 or more, fou")
    text = json.dumps(content).replace("12.5", "1" * 5000)
    assert "found 111111111111... (5,000 digits) (id 93, image 12 'a.jpg')" in refused(text)


@pytest.mark.parametrize("key", ["iscrowd", "\\u0069scrowd"])
def test_a_key_that_is_given_twice_is_refused(content: Content, refused: Refused, key: str) -> None:
    text = json.dumps(content).replace('"iscrowd": 1', f'"iscrowd": 1, "{key}": 0')
    message = "annotations[1].iscrowd: expected the key once, found it again (id 0, image 0 'b/ü.jp"
    assert refused(text).startswith(message)
    text = json.dumps(content).replace('"images"', '"images": [], "imag\\u0065s"', 1)
    assert refused(text) == "images: expected the key once, found it again"


def test_everything_that_is_wrong_is_told_the_first_twenty_in_full(
    content: Content, refused: Refused
) -> None:
    row = {"image_id": 12, "category_id": 99, "bbox": [0, 0, 1, 1]}
    content["annotations"] += [dict(row) for _ in range(3000)]
    content["annotations"][-1]["bbox"] = 5
    message = refused(content)
    assert message.startswith(
        "3,001 faults (3,000 x unknown category, 1 x wrong box): annotations["
    )
    assert message.endswith("; and 2,981 more")
    assert message.count("expected") == 20
    assert "annotations[3002].bbox: expected" in message  # the one is not hidden by the many
    assert len(message) < 5000


def test_faults_can_be_looked_at_one_by_one(content: Content) -> None:
    content["annotations"][0]["bbox"] = [1, 2, 3]
    table, faults = collect_annotations(content)
    assert table is None
    (fault,) = faults.kept
    assert (fault.kind, fault.place) == ("box", "annotations[0].bbox")
    assert (fault.row_id, fault.image_id, fault.image_name) == (93, 12, "a.jpg")


def test_a_value_cannot_forge_a_line(content: Content, refused: Refused) -> None:
    content["images"][0]["file_name"] = "\x1b[2Ja\nfatal: b"
    content["annotations"][0]["bbox"] = "\x1b]0;x\x07" * 100
    message = refused(content)
    assert "\x1b" not in message
    assert len(message) < 400


def test_only_regular_files_of_a_bounded_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path, reason in (
        (tmp_path / "none.json", "no such annotation file"),
        (tmp_path, "a folder, expected an annotation file"),
        (tmp_path / "pipe.json", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(AnnotationError, match=reason):
            read_annotations(path)
    with pytest.raises(AnnotationError, match="null"):
        read_annotations("a\0b")
    (tmp_path / "a.json").write_text("{}  ")
    monkeypatch.setattr(reading, "MAX_BYTES", 3)
    with pytest.raises(AnnotationError, match="a file of 4 bytes, more than 3"):
        read_annotations(tmp_path / "a.json")


def test_a_file_of_nothing_but_wrong_rows_is_not_read_to_its_end(
    content: Content, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "MAX_FAULTS", 50)
    row = content["annotations"][0]
    content["annotations"] = [row | {"id": number, "bbox": None} for number in range(49)]
    message = refused(content)
    assert message.startswith("49 x wrong box: ")
    assert "not looked at" not in message
    content["annotations"] += [row | {"id": number, "iscrowd": 5} for number in range(1000, 2000)]
    message = refused(content)
    assert message.startswith("99 faults (50 x wrong iscrowd, 49 x wrong box): ")
    assert message.endswith("; the rest of the file was not looked at")
