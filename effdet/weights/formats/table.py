# SPDX-License-Identifier: Apache-2.0
"""LevelDB's sorted-string tables, which TensorFlow's index files are.

Blocks of key-value pairs, an index block that says where they lie, and a footer that says where
the index lies. A key is written as what it shares with the one before and the rest.
https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from effdet.weights.formats.crc32c import masked_crc32c
from effdet.weights.formats.protobuf import varint
from effdet.weights.formats.snappy import decompress

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
"""The last bytes of a table."""
_FOOTER = 48
_TRAILER = 5
_NONE, _SNAPPY = 0, 1
_LONGEST_KEY, _MOST_KEY_BYTES = 2**12, 2**24
"""Bytes of one key and of all together: shared beginnings could make a small file very large."""
_MOST_PAIRS, _LONGEST_VALUE = 50_000, 2**16
_LARGEST_BLOCK, _LARGEST_TABLE = 2**20, 2**25
"""Bytes; TensorFlow's blocks have a quarter of that, and its tables few of them."""


def has_magic(file: BinaryIO) -> bool:
    """Whether ``file`` ends as tables do."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(MAGIC)))
    return file.read(len(MAGIC)) == MAGIC


def read_table(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """All pairs in the order of their keys, block after block.

    Raises:
        ValueError: where the table is damaged; every block has a checksum.
    """
    if not has_magic(file):
        raise ValueError("not a TensorFlow index, or cut off: its last bytes are wrong")
    end = file.seek(0, os.SEEK_END) - _FOOTER
    if end < 0:
        raise ValueError("cut off: shorter than its footer")
    if end > _LARGEST_TABLE:
        raise ValueError(f"an index of {end} bytes, which is not read")
    file.seek(end)
    footer = file.read(_FOOTER)
    _, at = _handle(footer, 0)  # of a block that nothing is in
    index, _ = _handle(footer, at)
    last_key: bytes | None = None
    done = key_bytes = count = 0
    for _, value in _pairs(_block(file, index, end)):
        place, _ = _handle(value, 0)
        if place[0] < done:
            raise ValueError("blocks that overlap")
        done = sum(place)
        for key, content in _pairs(_block(file, place, end)):
            if last_key is not None and key <= last_key:
                raise ValueError("keys that are not in order")
            last_key = key
            key_bytes += len(key)
            count += 1
            if key_bytes > _MOST_KEY_BYTES or count > _MOST_PAIRS:
                raise ValueError(
                    f"more than {_MOST_PAIRS} names or {_MOST_KEY_BYTES} bytes of them"
                )
            yield key, content


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where in ``data`` they end."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(file: BinaryIO, place: tuple[int, int], end: int) -> bytes:
    """The content of a block: behind it stand its compression and its checksum."""
    offset, size = place
    if offset + size + _TRAILER > end:
        raise ValueError(f"cut off: a block of {size} bytes at {offset} is not in the file")
    if size > _LARGEST_BLOCK:
        raise ValueError(f"a block of {size} bytes, which is not read")
    file.seek(offset)
    data = file.read(size + _TRAILER)
    content, kind = data[:size], data[size]
    if masked_crc32c(data[: size + 1]) != int.from_bytes(data[size + 1 :], "little"):
        raise ValueError(
            f"damaged: the block of {size} bytes at {offset} has a wrong checksum; get it again"
        )
    if kind not in (_NONE, _SNAPPY):
        raise ValueError(f"a block with compression {kind}; none and snappy are known")
    return decompress(content, 2 * _LARGEST_BLOCK) if kind == _SNAPPY else content


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values; at the end of a block stand offsets of keys that share nothing."""
    if len(block) < 4:
        raise ValueError("a block without an end")
    end = len(block) - 4 * (1 + int.from_bytes(block[-4:], "little"))
    if end < 0:
        raise ValueError("a block without an end")
    key, at = b"", 0
    while at < end:
        shared, at = varint(block, at)
        rest, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or rest + size > end - at:
            raise ValueError("a pair that is cut off")
        if shared + rest > _LONGEST_KEY:
            raise ValueError(f"a name of {shared + rest} bytes")
        if size > _LONGEST_VALUE:
            raise ValueError(f"an entry of {size} bytes")
        key = key[:shared] + block[at : at + rest]
        yield key, block[at + rest : at + rest + size]
        at += rest + size
