# SPDX-License-Identifier: Apache-2.0
"""Brackets of a JSON text, found by array operations: long texts of others cost no loop in Python.

What is no JSON is not found here; then what is found means nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH = 500
"""Lists and objects within one another."""

_BLOCK = 1 << 20
_QUOTE, _OPEN, _CLOSE, _COMMA = 1, 2, 3, 4
_KINDS = np.zeros(256, np.uint8)
for _letters, _kind in ((b'"', _QUOTE), (b"[{", _OPEN), (b"]}", _CLOSE), (b",", _COMMA)):
    _KINDS[list(_letters)] = _kind
_STEPS = np.array([0, 0, 1, -1, 0], np.int32)
_NO_MARKS = bytes(sorted(set(range(256)) - set(b'"[]{}')))


@dataclass(frozen=True)
class Part:
    """What the beginning of a text says of a value that goes on there.

    Attributes:
        end: where the value ends; None: not here.
        comma: place of the last comma between its parts; None: there is none.
        stack: the brackets that are open at this comma.
        deep: place of the first bracket beyond :data:`MAX_DEPTH`; None: there is none.
    """

    end: int | None
    comma: int | None
    stack: bytes
    deep: int | None


def scan(data: bytes, stack: bytes, above: int) -> Part:
    """Follow a list or object.

    Args:
        data: JSON, its beginning in no text.
        stack: the brackets of the value that are open at this beginning.
        above: how many are open around the value.
    """
    kinds = _KINDS[np.frombuffer(_without_escapes(data), np.uint8)]
    at = np.flatnonzero(kinds)
    marks = kinds[at]
    quotes = marks == _QUOTE
    used = ~quotes & (np.cumsum(quotes) % 2 == 0)
    at, marks = at[used], marks[used]
    depth = len(stack) + np.cumsum(_STEPS[marks], dtype=np.int32)
    end = _first((marks == _CLOSE) & (depth <= 0))
    too_deep = _first(depth > MAX_DEPTH - above)
    if too_deep is not None and (end is None or too_deep < end):
        return Part(None, None, stack, int(at[too_deep]))
    if end is not None:
        return Part(int(at[end]) + 1, None, b"", None)
    commas = np.flatnonzero(marks == _COMMA)
    if not len(commas):
        return Part(None, None, stack, None)
    last = int(commas[-1])
    depth, marks = depth[: last + 1], marks[: last + 1]
    least = np.minimum.accumulate(depth[::-1])[::-1]  # from here to the comma
    still = at[: last + 1][(marks == _OPEN) & (least == depth)]
    opened = bytes(data[k] for k in still.tolist())
    return Part(None, int(at[last]), stack[: int(least[0])] + opened, None)


def too_deep(data: bytes, above: int = 0) -> int | None:
    """Place of the first bracket of a JSON text with more than :data:`MAX_DEPTH` open.

    Args:
        data: the text.
        above: how many are open around it.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH - above:
        return None
    data = _without_escapes(data)
    depth, quoted = above, 0
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        kinds = _KINDS[np.frombuffer(block.translate(None, _NO_MARKS), np.uint8)]
        texts = quoted + np.cumsum(kinds == _QUOTE)
        depths = depth + np.cumsum(np.where(texts % 2, 0, _STEPS[kinds]), dtype=np.int64)
        if (found := _first(depths > MAX_DEPTH)) is not None:
            kinds = _KINDS[np.frombuffer(block, np.uint8)]
            return start + int(np.flatnonzero((kinds > 0) & (kinds < _COMMA))[found])
        if len(depths):
            depth, quoted = int(depths[-1]), int(texts[-1] % 2)
    return None


def end_of_text(data: bytes) -> int | None:
    """Where the text ends with which ``data`` begins; None: not in ``data``."""
    return _without_escapes(data).find(b'"', 1) + 1 or None


def _without_escapes(data: bytes) -> bytes:
    """The same with no quote that is part of a text."""
    if b"\\" not in data:
        return data
    return data.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _first(mask: NDArray[np.bool_]) -> int | None:
    found = int(mask.argmax()) if len(mask) else 0
    return found if len(mask) and mask[found] else None
