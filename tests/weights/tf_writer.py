# SPDX-License-Identifier: Apache-2.0
"""A writer of TensorFlow checkpoints, for tests.

``test_published_index.py`` holds that its index files are TensorFlow's, byte for byte.
"""

import contextlib
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.weights.formats.bundle import DTYPES, Entry
from effdet.weights.formats.crc32c import masked_crc32c
from effdet.weights.formats.table import MAGIC

EMA = "/ExponentialMovingAverage"
STRING = 7
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


def write_checkpoint(
    prefix: Path,
    tensors: Mapping[str, Tensor],
    averages: Mapping[str, Tensor] | None = None,
    *,
    num_shards: int = 1,
    **options: Any,
) -> Path:
    """Write ``tensors`` and their EMA twins; the index's path. Shards take their turns.

    ``options`` are those of :func:`table`: ``block_size`` in bytes and ``snappy``.
    """
    named = {**tensors, **{f"{name}{EMA}": value for name, value in (averages or {}).items()}}
    entries = []
    with contextlib.ExitStack() as stack:
        shards = [
            stack.enter_context(data_file(prefix, k, num_shards).open("wb"))
            for k in range(num_shards)
        ]
        for position, name in enumerate(sorted(named, key=str.encode)):
            value, shard = named[name], position % num_shards
            data = value.contiguous().reshape(-1).view(torch.uint8).numpy()
            place, crc32c = shards[shard].tell(), masked_crc32c(data)
            shape = tuple(value.shape)
            entries.append(Entry(name, value.dtype, shape, shard, place, len(data), crc32c))
            shards[shard].write(data)
    return write_index(prefix, entries, num_shards, **options)


def write_with_raw(prefix: Path, averages: Mapping[str, Tensor], **options: Any) -> Path:
    """Write ``averages`` as the averages of variables that are 7 all over."""
    raw = {name: torch.full_like(value, 7.0) for name, value in averages.items()}
    return write_checkpoint(prefix, raw, averages, **options)


def write_empty(prefix: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """The index of float32 variables, with data files that hold nothing but a hole."""
    entries, place = [], 0
    for name in sorted(shapes, key=str.encode):
        size = 4 * math.prod(shapes[name])
        entries.append(Entry(name, torch.float32, shapes[name], 0, place, size, 0))
        place += size
    with data_file(prefix, 0, 1).open("wb") as file:
        file.truncate(place)
    return write_index(prefix, entries)


def data_file(prefix: Path, shard: int, num_shards: int) -> Path:
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}")


def write_index(
    prefix: Path, entries: Iterable[Entry], num_shards: int = 1, **options: Any
) -> Path:
    """Write the index of variables that lie in data files; its path."""
    pairs = [(b"", header(num_shards)), *((e.name.encode(), entry(e)) for e in entries)]
    path = prefix.with_name(f"{prefix.name}.index")
    path.write_bytes(table(pairs, **options))
    return path


# Protocol buffers


def header(num_shards: int, *, endianness: int = 0, min_consumer: int = 0) -> bytes:
    version = number(1, 1) + number(2, min_consumer)
    return number(1, num_shards) + number(2, endianness) + message(3, version)


def entry(e: Entry, *, kind: int | None = None, more: bytes = b"") -> bytes:
    dims = b"".join(message(2, number(1, size)) for size in e.shape)
    if kind is None:
        kind = STRING if e.dtype is None else _NUMBERS[e.dtype]
    return (
        number(1, kind) + message(2, dims) + number(3, e.shard) + number(4, e.offset)
        + number(5, e.size) + b"\x35" + struct.pack("<I", e.crc32c) + more
    )  # fmt: skip


def number(field: int, value: int) -> bytes:
    """Zeros are left out."""
    return varint(field << 3) + varint(value) if value else b""


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    groups = []
    while True:
        value, group = value >> 7, value & 0x7F
        groups.append(group | (0x80 if value else 0))
        if not value:
            return bytes(groups)


# Tables


def table(
    pairs: Iterable[tuple[bytes, bytes]], *, block_size: int = 262144, snappy: bool = False
) -> bytes:
    """A sorted-string table of ``pairs``, which are in order."""
    content, index, block, last = b"", Block(1), Block(), b""
    for last, value in pairs:
        block.add(last, value)
        if block.size >= block_size:
            sealed = seal(block.bytes(), snappy=snappy)
            index.add(last, handle(len(content), sealed))
            content, block = content + sealed, Block()
    if block.count:
        sealed = seal(block.bytes(), snappy=snappy)
        after = bytes([min(last[0] + 1, 255)]) if last else b""  # the shortest name behind
        index.add(after, handle(len(content), sealed))
        content += sealed
    nothing, sealed = seal(Block().bytes()), seal(index.bytes())
    places = handle(len(content), nothing) + handle(len(content) + len(nothing), sealed)
    return content + nothing + sealed + places.ljust(40, b"\0") + MAGIC


class Block:
    """Pairs, every ``interval``-th whole, the others without what they share with the last."""

    def __init__(self, interval: int = 16) -> None:
        self.count, self._interval = 0, interval
        self._content, self._whole, self._last = bytearray(), [0], b""

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self.count % self._interval:
            while key[: shared + 1] == self._last[: shared + 1] and shared < len(key):
                shared += 1
        elif self.count:
            self._whole.append(len(self._content))
        self._content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        self._content += key[shared:] + value
        self._last, self.count = key, self.count + 1

    @property
    def size(self) -> int:
        return len(self._content) + 4 * len(self._whole) + 4

    def bytes(self) -> bytes:
        ends = struct.pack(f"<{len(self._whole) + 1}I", *self._whole, len(self._whole))
        return bytes(self._content) + ends


def block(pairs: Iterable[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    made = Block(interval)
    for key, value in pairs:
        made.add(key, value)
    return made.bytes()


def seal(content: bytes, *, snappy: bool = False) -> bytes:
    """A block with its compression and its checksum."""
    data = compress(content) + b"\1" if snappy else content + b"\0"
    return data + struct.pack("<I", masked_crc32c(data))


def handle(offset: int, sealed: bytes) -> bytes:
    return varint(offset) + varint(len(sealed) - 5)


def compress(data: bytes) -> bytes:
    """Snappy's raw format: copies of what stood there before, at most 64 bytes each."""
    seen: dict[bytes, int] = {}
    made, start, at = varint(len(data)), 0, 0
    while at < len(data):
        before = seen.get(data[at : at + 4]) if at + 4 <= len(data) else None
        seen[data[at : at + 4]] = at
        if before is None:
            at += 1
            continue
        count = 4
        while count < 64 and at + count < len(data) and data[before + count] == data[at + count]:
            count += 1
        made += _literal(data[start:at]) + _copy(at - before, count)
        at += count
        start = at
    return made + _literal(data[start:])


def _literal(data: bytes) -> bytes:
    if not data:
        return b""
    last = len(data) - 1
    if last < 60:
        return bytes([last << 2]) + data
    width = (last.bit_length() + 7) // 8
    return bytes([59 + width << 2]) + last.to_bytes(width, "little") + data


def _copy(back: int, count: int) -> bytes:
    if count < 12 and back < 2**11:
        return bytes([back >> 8 << 5 | count - 4 << 2 | 1, back & 0xFF])
    if back < 2**16:
        return bytes([count - 1 << 2 | 2]) + back.to_bytes(2, "little")
    return bytes([count - 1 << 2 | 3]) + back.to_bytes(4, "little")
