# SPDX-License-Identifier: Apache-2.0
"""Protocol buffers on the wire, as far as TensorFlow's index files need them.

https://protobuf.dev/programming-guides/encoding
"""

from collections import defaultdict

_FIXED = {1: 8, 5: 4}
_VARINT, _BYTES = 0, 2
_MOST_FIELDS = 100


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at ``at``, seven bits a byte, lowest first, and where it ends.

    Raises:
        ValueError: where it does not end.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number that is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")


class Message:
    """The fields of a message by number; a field that is not there is zero or empty.

    Raises:
        ValueError: where ``data`` is no message, or a field is not of the kind that is asked for.
    """

    def __init__(self, data: bytes) -> None:
        self._fields: defaultdict[int, list[int | bytes]] = defaultdict(list)
        at = 0
        while at < len(data):
            key, at = varint(data, at)
            value, at = _value(data, at, key & 7)
            if len(self._fields) > _MOST_FIELDS:
                raise ValueError("a message of too many fields")
            self._fields[key >> 3].append(value)

    def number(self, field: int) -> int:
        """The last value of a field; proto3 writes a number once."""
        value = self._fields.get(field, (0,))[-1]
        if not isinstance(value, int):
            raise ValueError(f"field {field} is not a number")
        return value

    def parts(self, field: int) -> list[bytes]:
        """All values of a field that holds messages."""
        found = []
        for value in self._fields.get(field, ()):
            if not isinstance(value, bytes):
                raise ValueError(f"field {field} is not a message")
            found.append(value)
        return found


def _value(data: bytes, at: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == _VARINT:
        return varint(data, at)
    if wire_type == _BYTES:
        size, at = varint(data, at)
    elif wire_type in _FIXED:
        size = _FIXED[wire_type]
    else:
        raise ValueError(f"wire type {wire_type}")
    if size > len(data) - at:
        raise ValueError("a field that is cut off")
    value = data[at : at + size]
    return value if wire_type == _BYTES else int.from_bytes(value, "little"), at + size
