# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from effdet.annotations import AnnotationError, columns, read_annotations, reading, stream
from tests.annotations.conftest import Content


def many(content: Content, count: int = 4000) -> Content:
    """A file with ``count`` annotations, some with objects in lists and texts like rows."""
    rows = []
    for k in range(count):
        row: dict[str, Any] = {"id": k, "image_id": 12, "category_id": 7, "bbox": [k % 30, 1, 2, 3]}
        if k % 3 == 0:
            row["segmentation"] = [[1.5, 2.5] * (k % 40)]
        if k % 7 == 0:
            row |= {"parts": [{"a": 1}, {"b": [2]}, {}], "note": "}, {"}
        rows.append(row | {"area": 1, "iscrowd": 0})
    return content | {"annotations": rows}


@pytest.mark.parametrize("window", [100, 1000, 4096, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_where_a_list_is_cut_changes_nothing(
    content: Content,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    window: int,
    indent: int | None,
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(many(content), indent=indent))
    monkeypatch.setattr(stream, "WINDOW", window)
    monkeypatch.setattr(reading, "load_exactly", None)  # the fast way alone must do
    monkeypatch.setattr(columns, "load_exactly", None)
    table = read_annotations(tmp_path / "a.json")
    assert table.ids.tolist() == list(range(4000))
    assert table.boxes[:, 0].tolist() == [k % 30 for k in range(4000)]


def test_a_fault_is_found_in_whatever_part_it_is(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOW", 1000)
    content = many(content, 200)
    for k in range(0, 200, 17):
        rows = [dict(row) for row in content["annotations"]]
        rows[k]["bbox"] = [1, 2, 3]
        (tmp_path / "a.json").write_text(json.dumps(content | {"annotations": rows}))
        with pytest.raises(AnnotationError, match=rf"annotations\[{k}\].bbox: .* \(id {k}, image"):
            read_annotations(tmp_path / "a.json")


def test_a_row_longer_than_all_windows_is_read_exactly(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content["annotations"][1]["segmentation"] = [[0.5] * 10_000]
    (tmp_path / "a.json").write_text(json.dumps(content))
    monkeypatch.setattr(stream, "WINDOW", 100)
    assert read_annotations(tmp_path / "a.json").boxes.shape == (3, 4)
    monkeypatch.setattr(stream, "MAX_WINDOW", 1000)
    assert read_annotations(tmp_path / "a.json").boxes.shape == (3, 4)


def test_a_file_too_large_to_be_read_exactly_still_tells_the_place(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(content, indent=1).replace("12.5", "NaN")
    (tmp_path / "a.json").write_text(text)
    monkeypatch.setattr(reading, "MAX_EXACT_BYTES", 100)
    line = text[: text.index("NaN")].count("\n") + 1
    with pytest.raises(AnnotationError, match=f"line {line} column [0-9]+: expected JSON, found"):
        read_annotations(tmp_path / "a.json")


def test_letters_that_lie_across_two_reads_are_whole(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOW", 64)
    for pad in range(8):
        content["info"] = " " * pad + "日本ü\U0001f600" * 60
        text = json.dumps(content, ensure_ascii=False)
        (tmp_path / "a.json").write_text(text)
        assert len(read_annotations(tmp_path / "a.json").ids) == 3
        data = text.encode().replace("\U0001f600".encode(), b"\xf0\x9f\x98", 40)
        (tmp_path / "a.json").write_bytes(data)
        column = len(data[: data.index(b"\xf0\x9f\x98" + "日".encode())].decode()) + 1
        with pytest.raises(AnnotationError, match=f"line 1 column {column}: expected text in UTF"):
            read_annotations(tmp_path / "a.json")
