# SPDX-License-Identifier: Apache-2.0
"""JSON files of others: opened carefully, read exactly, their faults with line and column.

The exact reader keeps what Python's own loses: keys that are given twice, numbers that are none.
It is slow; :mod:`effdet.annotations.stream` is the fast one.
"""

import json
from collections import Counter
from typing import Any, BinaryIO

from effdet.annotations.brackets import MAX_DEPTH, too_deep
from effdet.annotations.faults import Faults
from effdet.errors import printable

MAX_BYTES = 4 << 30
"""Largest file that is read."""

MAX_EXACT_BYTES = 16 << 20
"""Largest file that is read exactly, in memory: a hostile one takes 60 times its size there."""

BOM = b"\xef\xbb\xbf"
"""UTF-8's byte order mark; one is skipped."""

_IGNORED = "segmentation"  # most of a COCO file, and nothing here needs it
_LONG = 40  # digits; numbers beyond are shown short


class MalformedError(Exception):
    """What makes a file no JSON.

    Attributes:
        offset: where, in bytes.
        expected: what must stand there.
    """

    def __init__(self, offset: int, expected: str) -> None:
        super().__init__(expected)
        self.offset, self.expected = offset, expected


class FinalError(MalformedError):
    """What no other way of reading would say better."""


class BadTextError(FinalError):
    """Bytes that are no text, so that there is nothing to be read exactly."""


class TooDeepError(FinalError):
    """A bracket beyond :data:`MAX_DEPTH`."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset, f"at most {MAX_DEPTH} lists and objects within one another")


class Repeating(dict[str, Any]):
    """An object with keys that are given twice; the last value counts.

    Attributes:
        twice: these keys.
    """

    twice: tuple[str, ...] = ()


class _Number(float):
    """An integer of very many digits: beyond every bound, and short where it is shown."""

    text = ""

    def __repr__(self) -> str:
        return self.text


def load_exactly(data: bytes) -> Any:
    """The content of a JSON text, with what must be refused still to be seen in it.

    Objects with repeated keys become :class:`Repeating`; ``NaN`` and ``Infinity``, which are no
    JSON, stay numbers that are not finite; masks are left out.

    Raises:
        MalformedError: where it is no JSON.
    """
    if (deep := too_deep(data)) is not None:
        raise TooDeepError(deep)
    start = len(BOM) if data.startswith(BOM) else 0
    try:
        return json.loads(
            data[start:].decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_constant=float,
        )
    except UnicodeDecodeError as error:
        raise BadTextError(start + error.start, "text in UTF-8") from error
    except json.JSONDecodeError as error:
        offset = start + len(error.doc[: error.pos].encode())
        raise MalformedError(offset, f"JSON ({error.msg})") from error
    except RecursionError as error:  # called deep within a program
        raise MalformedError(0, "fewer lists and objects within one another") from error


def load_shown(data: bytes | None) -> Any:
    """A value for a message that shows it; an ellipsis for one that was too long to be kept."""
    return ... if data is None else load_exactly(data)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        values = Repeating(values)
        values.twice = tuple(key for key, count in counts.items() if count > 1)
    values.pop(_IGNORED, None)
    return values


def _integer(text: str) -> int | float:
    if len(text) <= _LONG:
        return int(text)
    number = _Number("-inf" if text.startswith("-") else "inf")
    number.text = f"{text[:12]}... ({len(text):,} digits)"
    return number


def add_syntax_fault(faults: Faults, file: BinaryIO, error: MalformedError) -> None:
    """Take what ``error`` says as a fault with line, column and what stands there."""
    place, found = _locate(file, error.offset)
    faults.add("syntax", place, error.expected, found)


def _locate(file: BinaryIO, offset: int) -> tuple[str, str]:
    """Line and column, both from 1, of a byte, and what stands there."""
    file.seek(0)
    start = len(BOM) if file.read(len(BOM)) == BOM else 0  # is no letter of the first line
    file.seek(start)
    line, position, offset = 1, start, max(start, offset)
    while position < offset:
        chunk = file.read(min(1 << 20, offset - position))
        if not chunk:
            break
        line += chunk.count(b"\n")
        if (last := chunk.rfind(b"\n")) >= 0:
            start = position + last + 1
        position += len(chunk)
    file.seek(max(start, offset - (1 << 20)))
    column = len(file.read(offset - file.tell()).decode("utf-8", "replace")) + 1
    column += max(0, offset - (1 << 20) - start)
    file.seek(offset)
    text = file.read(20)
    found = printable(repr(text.decode("utf-8", "backslashreplace"))) if text else "the end"
    return f"line {line} column {column}", found
