# SPDX-License-Identifier: Apache-2.0
"""Words of a command line and values of a YAML file as the types of fields."""

import argparse
import contextlib
import dataclasses
import types
import typing
from typing import Any, Literal, Union

from effdet.errors import nearest, shown

LARGEST_NUMBER = 2**63 - 1
"""Whole numbers beyond it fit into no tensor and no file format."""

_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text, in quotes where it looks like something else",
}


@dataclasses.dataclass(frozen=True)
class NumberOr:
    """The type ``int | Literal["word"]``: a whole number, or one of a few words."""

    words: tuple[str, ...]


def element_of(hint: object) -> tuple[Any, int | str | None]:
    """The type of one value and how many there are (None: exactly one, "+": any number)."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(parts) == 2 and parts[0] is int:
            return NumberOr(typing.get_args(parts[1])), None
        (hint,) = parts
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        return items[0], "+" if items[-1] is Ellipsis else len(items)
    return hint, None


def from_word(kind: Any, word: str) -> Any:
    """A word of the command line as a value of ``kind``.

    Raises:
        argparse.ArgumentTypeError: saying what was expected.
    """
    is_number = kind in (int, float) or (isinstance(kind, NumberOr) and word not in kind.words)
    value: Any = word
    if is_number:
        with contextlib.suppress(ValueError):
            value = float(word) if kind is float else int(word)
    try:
        return scalar(kind, value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be {error}") from error


def checked(hint: Any, value: Any) -> Any:
    """``value`` of a file as the type ``hint``; a ValueError says what was expected."""
    if value is None and type(None) in typing.get_args(hint):
        return None
    kind, count = element_of(hint)
    if count is None:
        return scalar(kind, value)
    if count == "+" and isinstance(value, str | int | float):
        value = [value]  # as on the command line
    if not isinstance(value, list) or (isinstance(count, int) and len(value) != count):
        size = f"of {count} " if isinstance(count, int) else ""
        raise ValueError(f"a list {size}such as [a, b], found {shown(value)}")
    return tuple(scalar(kind, item) for item in value)


def scalar(kind: Any, value: Any) -> Any:
    """``value``, which must be a ``kind``; whole numbers are taken for floats."""
    if typing.get_origin(kind) is Literal:
        words = typing.get_args(kind)
        if value not in words:
            near = nearest(value, words, told=True) if isinstance(value, str) else ""
            raise ValueError(f"one of {', '.join(words)}, found {shown(value)}{near}")
        return value
    if isinstance(kind, NumberOr):
        if isinstance(value, str) and value in kind.words:
            return value
        if type(value) is not int or abs(value) > LARGEST_NUMBER:
            expected = " or ".join(("a whole number", *kind.words))
            raise ValueError(f"{expected}, found {shown(value)}")
        return value
    if kind is float and type(value) is int:
        with contextlib.suppress(OverflowError):
            return float(value)
    if type(value) is not kind or (kind is int and abs(value) > LARGEST_NUMBER):
        raise ValueError(f"{_EXPECTED[kind]}, found {shown(value)}")
    return value
