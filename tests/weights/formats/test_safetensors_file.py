# SPDX-License-Identifier: Apache-2.0
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from effdet.errors import WeightsError
from effdet.weights.formats import safetensors_file
from effdet.weights.formats.safetensors_file import DTYPES, metadata_of, open_safetensors

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def write(path: Path, header: Any, content: bytes = bytes(4)) -> Path:
    """A file with ``header``, as JSON or raw bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        open_safetensors(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix(f"{path}: ")


def test_tensors_of_every_type_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {str(d): torch.arange(6).reshape(2, 3).to(d) for d in DTYPES.values()}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 3)}
    save_file(tensors, path, {"format": "pt", "note": "\u00fc"})
    file = open_safetensors(path)
    assert file.form == "safetensors"
    assert file.values == {"format": "pt", "note": "\u00fc"}
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        stored = file.tensors[name]
        assert (stored.shape, stored.dtype) == (tuple(tensor.shape), tensor.dtype)
        read = stored.read()
        assert read.dtype == tensor.dtype
        assert bytes(read.flatten().view(torch.uint8).numpy()) == bytes(
            tensor.flatten().view(torch.uint8).numpy()
        )


def test_what_was_read_is_the_reader_s_own(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path)
    stored = open_safetensors(path).tensors["a"]
    stored.read().zero_()
    assert stored.read().tolist() == [1, 1]
    assert path.read_bytes().endswith(torch.ones(2).numpy().tobytes())


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [
        ({"a": ONE, "b": ONE}, bytes(4), "invalid offset"),
        ({"a": ONE, "b": {**ONE, "data_offsets": [8, 12]}}, bytes(12), "invalid offset"),
        ({"a": ONE}, bytes(8), "not fully covered"),
        ({"a": ONE}, bytes(2), "cut off at"),
        ({"a": {**ONE, "shape": [2]}}, bytes(4), "invalid shape, data type, or offset"),
        ({"a": {**ONE, "shape": [2**62, 2**62]}}, bytes(4), "overflow"),
        ({"a": {**ONE, "data_offsets": [-1, 3]}}, bytes(4), "damaged"),
        ({"a": {**ONE, "data_offsets": [4, 0]}}, bytes(4), "damaged"),
        ({"a": {**ONE, "dtype": "X9"}}, bytes(4), "unknown variant"),
        ({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, bytes(4), "type F4"),
        ({"a": {"dtype": "F32"}}, b"", "missing field"),
        ({"a": ONE, "__metadata__": {"b": 1}}, bytes(4), "expected a string"),
        ({"a": ONE, "__metadata__": [1]}, bytes(4), "damaged"),
        ({"a\x1b[2J\n": ONE}, bytes(4), r"a tensor has the name a\x1b[2J\n, expected a text"),
        ([1], b"", "its header holds no names"),
        (b"[" * 100_000, b"", "its header is no JSON"),
        (b"{" * 5, b"", "its header is no JSON"),
        (b"\xff{}", b"", "its header is no JSON"),
        (b'{"a":{"x":' + b"9" * 5000 + b"}}", b"", "its header is no JSON"),
        (b'{"a":{},"a":{}}', b"", "two entries called a"),
        (b'{"__metadata__":{"x":"1","x":"2"}}', b"", "two entries called x"),
    ],
)
def test_a_damaged_header_is_told_in_one_line(
    header: Any, content: bytes, message: str, tmp_path: Path
) -> None:
    assert message in refusal(write(tmp_path / "a.safetensors", header, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"1234567", "cut, or not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "cut, or not a safetensors file"),
        (struct.pack("<Q", 3) + b"{}", "cut, or not a safetensors file"),
        (b"<html>404 not found</html>", "a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    ],
)
def test_other_content_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert message in refusal(path)
    with pytest.raises(WeightsError, match=message):
        metadata_of(path)


def test_a_huge_header_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.safetensors", {"a": ONE})
    size = path.stat().st_size - 12
    monkeypatch.setattr(safetensors_file, "MAX_HEADER", size)
    open_safetensors(path)
    monkeypatch.setattr(safetensors_file, "MAX_HEADER", size - 1)
    assert refusal(path) == f"not read: a header of {size} bytes"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.safetensors") == "no such weights file"
    assert refusal(tmp_path) == "a folder, expected a weights file"


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2)}, path, {"c": "d"})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refusal(path)
