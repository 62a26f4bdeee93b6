# SPDX-License-Identifier: Apache-2.0
"""safetensors files: a header of JSON with names, types, shapes and offsets, then the values."""

import functools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from effdet.errors import WeightsError
from effdet.weights.formats.beginning import instead_of_weights, opened
from effdet.weights.formats.pickled_values import shown
from effdet.weights.formats.plain import read_plain
from effdet.weights.tensor_file import StoredTensor, TensorFile

METADATA = "__metadata__"

MAX_HEADER = 4 * 2**20
"""Bytes; thirty thousand tensors need less."""

MAX_CONTAINERS = 100_000
"""Lists and objects in a header; a few bytes each, and a hundred times that in memory."""

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def open_safetensors(path: str | Path) -> TensorFile:
    """The tensors of a safetensors file; its metadata, all strings, are the values.

    Raises:
        WeightsError: where it is missing, damaged or no safetensors file: every byte after the
            header must belong to exactly one tensor.
    """
    path = Path(path)
    content = read_header(path)
    header = _parsed(content, path)
    metadata = header.pop(METADATA, None) or {}
    _check_size(path, header, 8 + len(content))
    try:
        with safe_open(path, framework="pt") as file:  # checks types, shapes and offsets
            names = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged: {shown(str(error))}") from error
    if names != header.keys():
        raise WeightsError(f"{path}: damaged: its header can be read in two ways")
    start = 8 + len(content)
    tensors = {name: _stored(name, entry, start, path) for name, entry in header.items()}
    return TensorFile(path=path, form="safetensors", tensors=tensors, values=metadata)


def _check_size(path: Path, header: Mapping[str, Any], start: int) -> None:
    """Refuse a file that is cut, in words of ours; the library checks the rest."""
    try:
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        cut = type(end) is int and path.stat().st_size < start + end
    except (LookupError, TypeError, OSError):
        return
    if cut:
        raise WeightsError(
            f"{path}: damaged: cut off at {path.stat().st_size} bytes, expected "
            f"{shown(str(start + end))}; get the file again"
        )


def _stored(name: str, entry: Mapping[str, Any], start: int, path: Path) -> StoredTensor:
    if not name.isprintable():
        raise WeightsError(f"{path}: a tensor has the name {shown(name)}, expected a text")
    if entry["dtype"] not in DTYPES:
        kind = shown(entry["dtype"])
        raise WeightsError(f"{path}: {name} has the type {kind}, which is not read")
    shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
    offset = start + entry["data_offsets"][0]
    read = functools.partial(read_plain, path, name, offset, shape, dtype)
    return StoredTensor(shape, dtype, read)


def read_header(path: Path) -> bytes:
    """The JSON at the start of the file, unchecked.

    Raises:
        WeightsError: where there is no file, or it is no safetensors file.
    """
    with opened(path) as file:
        rest = os.fstat(file.fileno()).st_size - 8
        head = file.read(8)
        size = int.from_bytes(head, "little")
        if rest < 2 or size > rest:
            instead = instead_of_weights(head + file.read(56))
            raise WeightsError(f"{path}: {instead or 'damaged: cut, or not a safetensors file'}")
        if size > MAX_HEADER:
            raise WeightsError(f"{path}: not read: a header of {size} bytes")
        file.seek(8)
        return file.read(size)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata in the header, unchecked; empty where there are none.

    Raises:
        WeightsError: as :func:`read_header`, or where the header is damaged.
    """
    metadata = _parsed(read_header(path), path).get(METADATA)
    if not isinstance(metadata, dict) or {*map(type, metadata.values())} - {str}:
        return {}
    return metadata


def _parsed(header: bytes, path: Path) -> dict[str, Any]:
    """The header, in which no name may stand twice: readers differ in which of them they take."""
    if header.count(b"[") + header.count(b"{") > MAX_CONTAINERS:
        raise WeightsError(f"{path}: not read: a header of more than {MAX_CONTAINERS} lists")
    try:
        values = json.loads(header, object_pairs_hook=_unique)
    except _TwiceError as error:
        raise WeightsError(f"{path}: damaged: two entries called {shown(str(error))}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged: its header is no JSON") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: damaged: its header holds no names")
    return values


class _TwiceError(Exception):
    """A name that stands twice in a JSON object."""


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _TwiceError(counts.most_common(1)[0][0])
    return values
