# SPDX-License-Identifier: Apache-2.0
import pytest

from effdet.weights.formats.protobuf import Message, varint


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"\x00", 0), (b"\x7f", 127), (b"\x96\x01", 150), (b"\xff" * 9 + b"\1", 2**64 - 1)],
)
def test_seven_bits_a_byte_lowest_first(data: bytes, value: int) -> None:
    assert varint(b"?" + data + b"?", 1) == (value, 1 + len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 11])
def test_a_number_that_does_not_end_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="a number "):
        varint(data, 0)


def test_fields_of_all_kinds_are_read_and_unknown_ones_skipped() -> None:
    data = b"\x08\x96\x01" + b"\x35\x78\x56\x34\x12" + b"\x39" + bytes(7) + b"\x01" + b"\x12\x00"
    message = Message(data + b"\x12\x02\x08\x05" + b"\xa2\x06\x03abc")
    assert message.number(1) == 150
    assert message.number(6) == 0x12345678
    assert message.number(7) == 2**56
    assert message.parts(2) == [b"", b"\x08\x05"]
    assert message.number(99) == 0
    assert message.parts(99) == []


@pytest.mark.parametrize(
    "data", [b"\x0a\x05abc", b"\x0d\0\0\0", b"\x09\0\0\0", b"\x0b", b"\x0f", b"\x08"]
)
def test_what_is_cut_off_or_of_an_unknown_kind_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|wire type"):
        Message(data)


def test_a_field_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="field 1 is not a number"):
        Message(b"\x0a\x00").number(1)
    with pytest.raises(ValueError, match="field 1 is not a message"):
        Message(b"\x08\x00").parts(1)
