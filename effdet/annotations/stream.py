# SPDX-License-Identifier: Apache-2.0
"""The long lists of a JSON file, a few thousand rows at a time.

Neither the file nor its rows are ever in memory as a whole. A stretch of a list is cut where one
row seems to end and the next to begin. Whether that is so shows in the decoding: a stretch that is
valid JSON between brackets has been cut at a row's end, since a cut inside of a row or a text
leaves something open.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from effdet.annotations.brackets import end_of_text, scan, too_deep
from effdet.annotations.json_file import (
    BOM,
    BadTextError,
    FinalError,
    MalformedError,
    TooDeepError,
)

WINDOW = 4 << 20
"""Bytes of a list that are decoded at once."""

MAX_WINDOW = 64 << 20
"""Bytes in which a row must end, and a text or number of what nobody reads."""

MAX_KEYS = 10_000
"""Keys of the object that a file is."""

_PART = 1 << 20  # bytes of an unread value that are checked at once
_FIRST = 4 << 10  # bytes in which most of them end
_SHOWN = 1 << 16  # bytes of a value that a message shows

_CUTS = 12  # places tried as a row's end
_BLANK = re.compile(rb"[ \t\r\n]*")
_NEXT_ROW = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*\{")
_SCALAR = re.compile(rb"[^\s,\[\]{}]+")
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_OFFSET = re.compile(r"\(byte (\d+)\)")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_RAW = msgspec.json.Decoder(msgspec.Raw)
_CLOSING = bytes.maketrans(b"[{", b"]}")

Decoder = msgspec.json.Decoder[Any]


class Stream:
    """Reads a JSON text from its beginning to its end.

    Every method raises :class:`MalformedError` for what is no JSON, and may raise it for JSON of an
    unusual form: the exact reader must judge then.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._data, self._position = b"", 0
        self._start = 0  # offset of _data in the file
        self._depth = 0  # brackets that are open
        self._ended = False
        self._fill(len(BOM))
        if self._data.startswith(BOM):
            self._position = len(BOM)

    def peek(self) -> bytes:
        """The next byte that is not blank, which stays; empty at the end."""
        while True:
            match = _BLANK.match(self._data, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._data) or self._ended:
                return self._data[self._position : self._position + 1]
            self._fill(WINDOW)

    def take(self, expected: bytes) -> None:
        """Go past ``expected``, which must come next."""
        if self.peek() != expected:
            raise self._malformed(repr(expected.decode()))
        self._position += len(expected)

    def object_keys(self) -> Iterator[str]:
        """The keys of the object that comes next; take its value before you ask for the next."""
        self.take(b"{")
        self._depth += 1
        if self.peek() != b"}":
            yield self._key()
            number = 1
            while self.peek() == b",":
                self.take(b",")
                number += 1
                if number > MAX_KEYS:
                    raise self._refused(f"an object of at most {MAX_KEYS:,} keys")
                yield self._key()
        self.take(b"}")
        self._depth -= 1

    def end(self) -> None:
        """Nothing must come any more."""
        if self.peek():
            raise self._malformed("the end of the file")

    def _key(self) -> str:
        if self.peek() != b'"':
            raise self._malformed("a key in double quotes")
        name = self._decoded(self._end_of_scalar(), str)
        self.take(b":")
        return name

    def value(self) -> bytes | None:
        """A whole value, as it is written; None where it is too long for a message."""
        self.peek()
        self._fill(_SHOWN)
        start, data = self._start + self._position, self._data[self._position :][:_SHOWN]
        self.skip()
        size = self._start + self._position - start
        return data[:size] if size <= len(data) else None

    def skip(self) -> None:
        """Go past the value that comes next, however long it is."""
        start = self.peek()
        self._fill(_FIRST)
        text = self._data[self._position : self._position + _FIRST]
        try:
            _RAW.decode(text)
        except RecursionError:
            pass
        except msgspec.DecodeError as error:
            if match := _TRAILING.search(str(error)):
                self._check_depth(text[: int(match[1]) - 1], self._depth)
                self._position += int(match[1]) - 1
                return
        if start in (b"[", b"{"):
            self._skip_parts()
        else:
            self._decoded(self._end_of_scalar(), msgspec.Raw)

    def _skip_parts(self) -> None:
        """Go past a list or object, part by part: each is valid between brackets of its own."""
        stack, size = b"", min(_PART, MAX_WINDOW)
        while True:
            self._fill(size)
            text = self._data[self._position : self._position + size]
            part = scan(text, stack, self._depth)
            if part.deep is not None:
                raise TooDeepError(self._start + self._position + part.deep)
            end = part.comma if part.end is None else part.end
            if end is None and not (self._ended and size >= len(self._data) - self._position):
                if size >= MAX_WINDOW:
                    raise self._refused(f"a text or number of at most {MAX_WINDOW:,} bytes")
                size *= 2
                continue
            prefix = b"".join(b"[" if k == ord("[") else b'{"":' for k in stack[:-1]) + stack[-1:]
            self._check_part(prefix, text[:end], b"" if end is None else part.stack)
            if part.end is not None:
                self._position += part.end
                return
            self._position += len(text[:end]) + 1
            if self.peek() in (b",", b"]", b"}", b""):  # which after an open bracket are valid
                raise self._malformed("a value")
            stack, size = part.stack, min(_PART, MAX_WINDOW)

    def _check_part(self, prefix: bytes, inner: bytes, stack: bytes) -> None:
        """Refuse ``inner``, which comes next, where it is no JSON between its brackets."""
        try:
            _RAW.decode(prefix + inner + stack[::-1].translate(_CLOSING))
            if not stack or inner.rstrip(b" \t\r\n")[-1:] not in (b"[", b"{"):
                return
            offset = len(inner)  # a comma after the bracket
        except (msgspec.DecodeError, RecursionError) as error:
            offset = _offset(error)
            offset = len(inner) if offset < 0 else min(max(0, offset - len(prefix)), len(inner))
        self._position += offset
        raise self._malformed("JSON")

    def _end_of_scalar(self) -> int:
        """Where the text or number that comes next ends."""
        is_text, size = self.peek() == b'"', _FIRST
        while True:
            self._fill(size)
            rest = self._data[self._position : self._position + size]
            is_all = self._ended and self._position + len(rest) == len(self._data)
            if is_text:
                end = end_of_text(rest)
            elif match := _SCALAR.match(rest):
                end = match.end() if match.end() < len(rest) or is_all else None
            else:
                raise self._malformed("a value")
            if end is not None:
                return self._position + end
            if is_all:
                raise self._malformed("JSON")
            if size >= MAX_WINDOW:
                raise self._refused(f"a text or number of at most {MAX_WINDOW:,} bytes")
            size *= 2

    def rows(self, decoder: Decoder) -> Iterator[tuple[bytes, list[Any] | None]]:
        """The list that comes next, in stretches.

        Args:
            decoder: of a list of rows.

        Yields:
            A part of the list as a JSON list of its own, and its rows; None where it is valid
            JSON, but not what ``decoder`` expects.
        """
        self.take(b"[")
        if self.peek() == b"]":
            self.take(b"]")
            return
        closed = False
        while not closed:
            text, rows, closed = self._stretch(decoder)
            yield text, rows
            if not closed:
                self.take(b",")

    def _stretch(self, decoder: Decoder) -> tuple[bytes, list[Any] | None, bool]:
        """The next rows, and whether they are the last."""
        size, seen = WINDOW, -1
        while True:
            self._fill(size)
            for cut in self._cuts(size):
                text = b"[" + self._data[self._position : cut] + b"]"
                try:
                    length, rows = _decode(decoder, text)
                except RecursionError as error:
                    self._check_depth(text[1:], self._depth + 1)
                    raise self._malformed("fewer lists and objects within one another") from error
                except msgspec.DecodeError as error:
                    offset = _offset(error)
                    if offset == seen and offset >= 0:  # wherever it is cut: it is the text itself
                        self._position += max(0, offset - 1)
                        raise self._malformed("JSON") from error
                    seen = offset
                    continue
                self._check_depth(text[1:length], self._depth + 1)
                closed = length < len(text)  # the brackets of this text but not those of the file
                self._position += length - 1 if closed else length - 2
                return text[:length], rows, closed
            if self._ended or size >= MAX_WINDOW:
                raise self._malformed(f"objects of at most {MAX_WINDOW:,} bytes")
            size *= 2

    def _cuts(self, size: int) -> Iterator[int]:
        """Positions where a row may end, the last ones first."""
        high, step = min(len(self._data), self._position + size), 1
        for _ in range(_CUTS):
            while (cut := self._data.rfind(b"}", self._position, high)) >= 0:
                high = cut
                if _NEXT_ROW.match(self._data, cut + 1):
                    break
            if cut < 0:
                break
            yield cut + 1
            high, step = max(self._position, cut - step), step * 4
        if self._ended:
            yield len(self._data)

    def _decoded(self, end: int, kind: Any) -> Any:
        """The value up to ``end``, and go past it."""
        try:
            value = msgspec.json.decode(self._data[self._position : end], type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            self._position += max(0, _offset(error))
            raise self._malformed("JSON") from error
        self._position = end
        return value

    def _fill(self, size: int) -> None:
        """Have ``size`` bytes from the position on, as far as the file has them."""
        missing = size - (len(self._data) - self._position)
        if missing <= 0 or self._ended:
            return
        wanted = max(missing, WINDOW)
        more = self._file.read(wanted)
        self._ended = len(more) < wanted
        if not self._start and more.startswith(_UTF_16) and not self._data:
            raise BadTextError(0, "text in UTF-8, not in UTF-16")
        try:
            if not more.isascii() or self._text.getstate()[0]:
                self._text.decode(more, self._ended)
        except UnicodeDecodeError as error:
            start = self._start + len(self._data) + error.start
            # What was pending from the read before stands in front of these bytes.
            raise BadTextError(start - (len(error.object) - len(more)), "text in UTF-8") from error
        self._start += self._position
        self._data, self._position = self._data[self._position :] + more, 0

    def _check_depth(self, text: bytes, around: int) -> None:
        """Refuse ``text``, which comes next, where it is too deep with ``around`` around it."""
        if (deep := too_deep(text, around)) is not None:
            raise TooDeepError(self._start + self._position + deep)

    def _refused(self, expected: str) -> FinalError:
        return FinalError(self._start + self._position, expected)

    def _malformed(self, expected: str) -> MalformedError:
        return MalformedError(self._start + self._position, expected)


def check_json(data: bytes, otherwise: int) -> None:
    """Refuse what is no JSON, be it in a field that nobody reads.

    Raises:
        MalformedError: with its place; ``otherwise`` where that is not known.
    """
    start = len(BOM) if data.startswith(BOM) else 0
    try:
        msgspec.json.decode(data[start:], type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        offset = _offset(error)
        raise MalformedError(otherwise if offset < 0 else start + offset, "JSON") from error


def _decode(decoder: Decoder, text: bytes) -> tuple[int, list[Any] | None]:
    """How many bytes of ``text`` are the list that it begins with, and its rows.

    Raises:
        msgspec.DecodeError: where it is no JSON.
        RecursionError: where it is too deep.
    """
    for end in (len(text), 0):
        try:
            return len(text), decoder.decode(text)
        except (msgspec.ValidationError, RecursionError):
            rows = None
        except msgspec.DecodeError as error:
            if (match := _TRAILING.search(str(error))) is None or not end:
                raise
            text = text[: int(match[1]) - 1]
            continue
        try:
            _RAW.decode(text)
        except msgspec.DecodeError as error:
            if (match := _TRAILING.search(str(error))) is None or not end:
                raise
            text = text[: int(match[1]) - 1]
        return len(text), rows
    raise AssertionError("the second try returns or raises")


def _offset(error: Exception) -> int:
    match = _OFFSET.search(str(error))
    return int(match[1]) if match else -1
