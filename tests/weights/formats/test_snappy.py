# SPDX-License-Identifier: Apache-2.0
import base64

import pytest

from effdet.weights.formats.snappy import decompress
from tests.weights.tf_writer import compress, varint

NAMES = b"".join(
    b"fpn_cells/cell_%d/fnode%d/op_after_combine%d/bn/gamma\0" % (i % 3, i % 8, i)
    for i in range(12)
)
PLAIN = NAMES + bytes(70) + bytes(range(200))
COMPRESSED = base64.b64decode(
    "9AYkZnBuX2NlbGxzLwEGkF8wL2Zub2RlMC9vcF9hZnRlcl9jb21iaW5lMC9ibi9nYW1tYQA6MwAAMQkzADFCMwAAMWIz"
    "AAAyCTMAMkIzAAAyYjMADZkAM0IzAAAzYjMADZkANEIzAAA0YjMADZkANUIzAAA1YjMADZkANkIzAAA2YjMADZkAN0Iz"
    "AAA3YjMADZkAMEIzAAA4YjMADZlGmAEAOWIzAA2ZRpgBADFm/wENmkaZAQAxXQD+AQANAfDG"
) + bytes(range(1, 200))  # fmt: skip
"""``PLAIN`` as a library that is built on Snappy's own description (Rust's snap) writes it."""


def test_what_another_program_compressed_is_read() -> None:
    assert decompress(COMPRESSED) == PLAIN


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (b"\x00", b""),
        (b"\x03\x08abc", b"abc"),
        (b"\x08\x00a\x0d\x01", b"a" * 8),  # a copy of seven from one back goes on with itself
        (b"\x08\x04ab\x16\x02\x00", b"ab" * 4),
        (b"\x08\x04ab\x17\x02\x00\x00\x00", b"ab" * 4),
        (b"\x3d\xf0\x3c" + bytes(61), bytes(61)),
        (b"\x3d\xf4\x3c\x00" + bytes(61), bytes(61)),
        (b"\x3d\xfc\x3c\x00\x00\x00" + bytes(61), bytes(61)),
    ],
)
def test_literals_and_copies_of_every_kind_are_read(data: bytes, plain: bytes) -> None:
    assert decompress(data) == plain


@pytest.mark.parametrize(
    "plain", [b"", b"a", bytes(100_000), bytes(range(256)) * 300, NAMES * 400 + bytes(range(200))]
)
def test_what_the_tests_compress_is_read(plain: bytes) -> None:
    assert decompress(compress(plain)) == plain


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x04\x08abc",  # less than it says
        b"\x02\x08abc",  # more
        b"\x03\x08ab",
        b"\x03\xf0",
        b"\x08\x00a\x0d",
        b"\x08\x00a\x0d\x00",  # a copy from nowhere
        b"\x08\x00a\x0d\x02",  # from before the first byte
        b"\x08\x00a\x16\x01",
    ],
)
def test_what_snappy_never_writes_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"compressed|copy|number"):
        decompress(data)


def test_a_few_bytes_cannot_claim_to_be_many() -> None:
    with pytest.raises(ValueError, match="6 compressed bytes cannot be 4294967295"):
        decompress(varint(2**32 - 1) + b"\0")


def test_a_changed_byte_gives_an_error_or_other_bytes_of_the_same_number() -> None:
    for at in range(len(COMPRESSED)):
        for change in (1, 16, 128, 255):
            data = COMPRESSED[:at] + bytes([COMPRESSED[at] ^ change]) + COMPRESSED[at + 1 :]
            try:
                found = decompress(data)
            except ValueError:
                continue
            assert len(found) == len(PLAIN) or at < 2
