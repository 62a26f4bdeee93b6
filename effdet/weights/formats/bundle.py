# SPDX-License-Identifier: Apache-2.0
"""The index of a TensorFlow checkpoint: one protobuf message a variable in a sorted table.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/tensor_bundle.proto
"""

import functools
import math
from dataclasses import dataclass
from typing import BinaryIO

import torch

from effdet.weights.formats.protobuf import Message
from effdet.weights.formats.table import read_table

DTYPES = {
    1: torch.float32, 2: torch.float64, 3: torch.int32, 4: torch.uint8, 5: torch.int16,
    6: torch.int8, 8: torch.complex64, 9: torch.int64, 10: torch.bool, 14: torch.bfloat16,
    17: torch.uint16, 18: torch.complex128, 19: torch.float16, 22: torch.uint32, 23: torch.uint64,
}  # fmt: skip
"""PyTorch's types by TensorFlow's numbers."""
_NO_NUMBERS = {7, 20, 21}
"""Strings, resources and variants: descriptions of object graphs, iterators."""
_VERSION = 1
_MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class Entry:
    """A variable: ``size`` bytes at ``offset`` in data file ``shard``.

    Attributes:
        dtype: None where it is not made of numbers.
        crc32c: masked, of its bytes.
    """

    name: str
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int


@dataclass(frozen=True)
class Bundle:
    """What an index says: into how many data files which variables were written."""

    num_shards: int
    entries: tuple[Entry, ...]


def read_bundle(file: BinaryIO) -> Bundle:
    """Parse and check an index.

    Raises:
        ValueError: where it is damaged, or says what cannot be or is not read here.
    """
    pairs = read_table(file)
    key, value = next(pairs, (None, b""))
    if key != b"":
        raise ValueError("not a TensorFlow index: its table has no header")
    num_shards = _num_shards(value)
    return Bundle(num_shards, tuple(_entry(key, value, num_shards) for key, value in pairs))


def _num_shards(value: bytes) -> int:
    try:
        header = Message(value)
        num_shards, endianness = header.number(1), header.number(2)
        needed = max((Message(part).number(2) for part in header.parts(3)), default=0)
    except ValueError as error:
        raise ValueError(f"not the index of a TensorFlow V2 checkpoint ({error})") from error
    if endianness != 0:
        raise ValueError("written by a big-endian machine, which is not read")
    if needed > _VERSION:
        raise ValueError(f"needs a reader of version {needed}, this is {_VERSION}")
    return num_shards


def _entry(key: bytes, value: bytes, num_shards: int) -> Entry:
    name = key.decode(errors="replace")
    if not name.isprintable() or "\ufffd" in name:
        raise ValueError(f"{key[:80]!r} is not the name of a variable; slices of one are not read")
    try:
        message = Message(value)
        kind, shard = message.number(1), message.number(3)
        offset, size = message.number(4), message.number(5)
        shape = tuple(size for part in message.parts(2) for size in _sizes(part))
        slices = message.parts(7)
        crc32c = message.number(6)
    except ValueError as error:
        raise ValueError(f"{name}: damaged entry ({error})") from error
    if slices:
        raise ValueError(f"{name} is stored in slices (a partitioned variable), expected whole")
    if shard >= num_shards:
        raise ValueError(f"{name} is in data file {shard}, but there are {num_shards}")
    if kind not in DTYPES and kind not in _NO_NUMBERS:
        raise ValueError(f"{name} has the unknown type {kind}")
    dtype = DTYPES.get(kind)
    if dtype is not None:
        _check_size(name, dtype, shape, size)
    return Entry(name, dtype, shape, shard, offset, size, crc32c)


@functools.lru_cache(maxsize=1024)
def _sizes(shape: bytes) -> tuple[int, ...]:
    """The sizes in a shape's message; a checkpoint has few shapes and many variables."""
    return tuple(Message(dim).number(1) for dim in Message(shape).parts(2))


def _check_size(name: str, dtype: torch.dtype, shape: tuple[int, ...], size: int) -> None:
    """Also such that no shape is too large for PyTorch, empty ones included."""
    possible = math.prod(max(dim, 1) for dim in shape) * dtype.itemsize
    if len(shape) > _MOST_DIMENSIONS or possible >= 2**63:
        raise ValueError(f"{name} has a shape that no tensor can have")
    wanted = math.prod(shape) * dtype.itemsize
    if size != wanted:
        raise ValueError(
            f"{name} has {size} bytes, expected {wanted} for {list(shape)} {str(dtype)[6:]}"
        )
