# SPDX-License-Identifier: Apache-2.0
"""Snappy's raw format: https://github.com/google/snappy/blob/main/format_description.txt."""

from effdet.weights.formats.protobuf import varint

_LARGEST_RATIO = 22
"""Three bytes become 64 at most."""


def decompress(data: bytes, most: int = 2**24) -> bytes:
    """The bytes that ``data`` stands for, ``most`` of them.

    Raises:
        ValueError: where it is not Snappy's; never are more bytes made than its length allows.
    """
    size, at = varint(data, 0)
    if size > _LARGEST_RATIO * len(data):
        raise ValueError(f"{len(data)} compressed bytes cannot be {size}")
    if size > most:
        raise ValueError(f"compressed bytes that are {size}, which is not read")
    made = bytearray()
    while at < len(data):
        piece, at = _literal(data, at) if data[at] & 3 == 0 else _copy(data, at, made)
        made += piece
        if len(made) > size:
            break
    if len(made) != size:
        raise ValueError(f"compressed bytes do not give the {size} that they say")
    return bytes(made)


def _literal(data: bytes, at: int) -> tuple[bytes, int]:
    """The bytes that stand in ``data`` themselves; a long count follows in up to four bytes."""
    count, at = data[at] >> 2, at + 1
    if count >= 60:
        width = count - 59
        count, at = _little(data, at, width), at + width
    if count >= len(data) - at:
        raise ValueError("compressed bytes are cut off")
    return data[at : at + count + 1], at + count + 1


def _copy(data: bytes, at: int, made: bytearray) -> tuple[bytes, int]:
    """Bytes that were made before; where they reach the end, they go on with themselves."""
    tag = data[at]
    kind, width = tag & 3, (1, 2, 4)[(tag & 3) - 1]
    back = _little(data, at + 1, width)
    if kind == 1:
        count, back = (tag >> 2 & 7) + 4, back | tag >> 5 << 8
    else:
        count = (tag >> 2) + 1
    if not 0 < back <= len(made):
        raise ValueError("a copy of bytes that are not there")
    start = len(made) - back
    piece = bytes(made[start : start + count])
    return (piece * (count // len(piece) + 1))[:count], at + 1 + width


def _little(data: bytes, at: int, width: int) -> int:
    if at + width > len(data):
        raise ValueError("compressed bytes are cut off")
    return int.from_bytes(data[at : at + width], "little")
