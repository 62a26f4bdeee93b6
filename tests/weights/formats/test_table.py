# SPDX-License-Identifier: Apache-2.0
import io
import struct

import pytest

from effdet.weights.formats.crc32c import masked_crc32c
from effdet.weights.formats.table import MAGIC, has_magic, read_table
from tests.weights import tf_writer
from tests.weights.tf_writer import block, handle, seal, table

PAIRS = [(f"layer_{k:03d}/kernel".encode(), bytes([k]) * (k % 7)) for k in range(100)]


def read(data: bytes) -> list[tuple[bytes, bytes]]:
    return list(read_table(io.BytesIO(data)))


def with_index(blocks: bytes, pairs: list[tuple[bytes, bytes]]) -> bytes:
    """``blocks`` and an index block of ``pairs``."""
    sealed = seal(block(pairs, interval=1))
    places = handle(0, sealed) + handle(len(blocks), sealed)
    return blocks + sealed + places.ljust(40, b"\0") + MAGIC


def test_a_checksum_is_the_published_one_of_nine_digits_masked() -> None:
    """CRC-32C's check value, https://reveng.sourceforge.io/crc-catalogue, rotated and added to."""
    crc = 0xE3069283
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    assert masked_crc32c(b"123456789") == (rotated + 0xA282EAD8) % 2**32
    assert masked_crc32c(b"") == 0xA282EAD8


@pytest.mark.parametrize("block_size", [1, 50, 500, 5000])
@pytest.mark.parametrize("snappy", [False, True])
def test_all_pairs_are_read_in_order(block_size: int, snappy: bool) -> None:
    assert read(table(PAIRS, block_size=block_size, snappy=snappy)) == PAIRS


def test_a_table_may_be_empty() -> None:
    assert read(table([])) == []


def test_shared_beginnings_are_written_once_and_read_back() -> None:
    """By hand: `ab` = 1, then `ac` = 2 as one shared byte and `c`."""
    content = bytes([0, 2, 1]) + b"ab1" + bytes([1, 1, 1]) + b"c2" + struct.pack("<II", 0, 1)
    data = with_index(seal(content), [(b"b", handle(0, seal(content)))])
    assert read(data) == [(b"ab", b"1"), (b"ac", b"2")]


def test_a_table_is_known_by_its_last_bytes() -> None:
    assert has_magic(io.BytesIO(table(PAIRS)))
    assert not has_magic(io.BytesIO(table(PAIRS)[:-1]))
    assert not has_magic(io.BytesIO(b""))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a block without an end"),
        (struct.pack("<I", 1), "a block without an end"),
        (struct.pack("<I", 2**32 - 1), "a block without an end"),
        (bytes([1, 1, 0]) + b"a" + struct.pack("<II", 0, 1), "a pair that is cut off"),
        (bytes([0, 9, 0]) + b"a" + struct.pack("<II", 0, 1), "a pair that is cut off"),
        (bytes([0, 1, 9]) + b"a" + struct.pack("<II", 0, 1), "a pair that is cut off"),
        (b"\0\x80\x80" + struct.pack("<I", 0), "a pair that is cut off"),
        (b"\0" + b"\xff" * 9 + struct.pack("<II", 0, 1), "a pair that is cut off"),
    ],
)
def test_a_block_that_is_none_is_refused(content: bytes, words: str) -> None:
    data = with_index(seal(content), [(b"z", handle(0, seal(content)))])
    with pytest.raises(ValueError, match=words):
        read(data)


def test_an_unknown_compression_is_refused() -> None:
    data = block(PAIRS[:1]) + b"\4"
    sealed = data + struct.pack("<I", masked_crc32c(data))
    with pytest.raises(ValueError, match="compression 4; none and snappy"):
        read(with_index(sealed, [(b"z", handle(0, sealed))]))


def test_keys_must_rise_within_a_block_and_over_blocks() -> None:
    for pairs in ([(b"b", b""), (b"a", b"")], [(b"a", b""), (b"a", b"")]):
        with pytest.raises(ValueError, match="not in order"):
            read(table(pairs))
        with pytest.raises(ValueError, match="not in order"):
            read(table(pairs, block_size=1))


def test_a_block_that_is_used_twice_is_refused() -> None:
    sealed = seal(block(PAIRS))
    twice = [(b"y", handle(0, sealed)), (b"z", handle(0, sealed))]
    with pytest.raises(ValueError, match="overlap"):
        read(with_index(sealed, twice))


def test_a_block_outside_the_file_is_refused() -> None:
    for place in (tf_writer.varint(2**62) + b"\1", b"\1" + tf_writer.varint(2**40)):
        with pytest.raises(ValueError, match="is not in the file"):
            read(with_index(b"", [(b"z", place)]))


def test_shared_beginnings_cannot_fill_the_memory() -> None:
    """Each pair takes 8 bytes and makes a name of 262,000, or 20,000 names of 4,000 each."""
    long = [(b"a" * 2**18 + b"%08d" % k, b"") for k in range(3)]
    with pytest.raises(ValueError, match="a name of 262152 bytes"):
        read(table(long))
    many = [(b"a" * 4000 + b"%08d" % k, b"") for k in range(20_000)]
    content = bytearray(bytes([0]) + tf_writer.varint(4008) + b"\0" + many[0][0])
    for key, _ in many[1:]:
        content += tf_writer.varint(4000) + bytes([8, 0]) + key[4000:]
    sealed = seal(bytes(content) + struct.pack("<II", 0, 1))
    assert len(sealed) < 300_000
    with pytest.raises(ValueError, match="more than 50000 names or 16777216 bytes of them"):
        read(with_index(sealed, [(b"z", handle(0, sealed))]))
