# SPDX-License-Identifier: Apache-2.0
"""Files made to cost much: time and memory are measured in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from effdet.annotations import AnnotationError, read_annotations, reading, stream
from effdet.annotations.brackets import MAX_DEPTH
from tests.annotations.conftest import Content
from tests.annotations.test_table import Refused

CHILD = """
import resource, sys, time
from effdet.annotations import collect_annotations
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
print(collect_annotations(sys.argv[1])[1])
print(time.process_time() - start)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize(
    ("unit", "end"),
    [(b"[],", b"[1 2]"), (b'[[[["]",{"a":[{}]}]]]],', b"nul"), (b'"\\"[{\\\\",', b"[1,]")],
)
def test_brackets_that_nobody_reads_cost_little(tmp_path: Path, unit: bytes, end: bytes) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.write(b'{"x":[')
        for _ in range(24):
            file.write(unit * ((1 << 20) // len(unit)))
        file.write(end + b"]}")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "a.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    fault, seconds, megabytes = done.stdout.splitlines()
    place = (tmp_path / "a.json").stat().st_size - len(end) - 1
    assert fault.startswith("line 1 column ")
    assert place <= int(fault.split()[3].rstrip(":")) <= place + len(end) + 1
    assert float(seconds) < 10  # one or two; a loop over the brackets took a minute
    assert float(megabytes) < 250


def test_a_wrong_row_of_a_file_too_large_to_be_read_exactly_is_named(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_EXACT_BYTES", 100)
    content["annotations"][1]["bbox"] = [1, 2, "3"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"annotations\[1\].bbox: expected 4 finite"):
        read_annotations(tmp_path / "a.json")


def test_what_nobody_reads_may_be_of_any_size(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("WINDOW", 500), ("_PART", 500), ("_FIRST", 50), ("MAX_WINDOW", 1000)):
        monkeypatch.setattr(stream, name, size)
    monkeypatch.setattr(reading, "MAX_EXACT_BYTES", 100)
    inner = [{"a": [k, {"],[": '"[\\"'}], "b": [[], {}, [None]]} for k in range(300)]
    (tmp_path / "a.json").write_text(json.dumps({"x": inner, **content, "y": {"z": [inner]}}))
    assert read_annotations(tmp_path / "a.json").boxes.shape == (3, 4)
    (tmp_path / "a.json").write_text(json.dumps({"x": ["a" * 3000], **content}))
    with pytest.raises(AnnotationError, match="a text or number of at most 1,000 bytes"):
        read_annotations(tmp_path / "a.json")


@pytest.mark.parametrize("wrong", ["[,1]", "[1,,1]", "[1,]", '{"a":,"b":1}', "[1}", '{"a":1,2}'])
@pytest.mark.parametrize("size", [2, 3, 5, 8, 64])
def test_wherever_it_is_cut_no_json_is_refused(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, size: int
) -> None:
    monkeypatch.setattr(stream, "_PART", size)
    monkeypatch.setattr(stream, "_FIRST", 1)
    monkeypatch.setattr(reading, "MAX_EXACT_BYTES", 100)
    text = json.dumps({"x": [1, {"k": ["?", 2]}, 3], **content})
    for end in ("", " "):
        (tmp_path / "a.json").write_text(text.replace('"?"', wrong + end))
        with pytest.raises(AnnotationError, match="line 1 column "):
            read_annotations(tmp_path / "a.json")


def test_levels_are_counted_exactly(content: Content, tmp_path: Path, refused: Refused) -> None:
    def nested(levels: int) -> list[object]:
        value: list[object] = []
        for _ in range(levels - 1):
            value = [value]
        return value

    def with_levels(where: str, levels: int) -> Content:
        changed = json.loads(json.dumps(content))
        if where == "x":
            changed["x"] = nested(levels - 1)
        else:
            changed[where][1]["x"] = nested(levels - 3)
        return dict(changed)

    for where in ("x", "annotations", "images"):
        (tmp_path / "b.json").write_text(json.dumps(with_levels(where, MAX_DEPTH)))
        assert read_annotations(tmp_path / "b.json").boxes.shape == (3, 4)
        for levels in (MAX_DEPTH + 1, 700, 900):
            text = json.dumps(with_levels(where, levels))
            assert "expected at most 500 lists and objects" in refused(text)


def test_an_object_of_very_many_keys_is_refused(content: Content, refused: Refused) -> None:
    keys = {f"k{k}": k for k in range(stream.MAX_KEYS)}
    assert "expected an object of at most 10,000 keys" in refused(json.dumps(content | keys))
