# SPDX-License-Identifier: Apache-2.0
"""The values that a pickle of PyTorch may hold: plain ones, containers, tensors, stand-ins."""

import math
import operator
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

MAX_DEPTH = 64
"""Containers in one another."""

MAX_DIMENSIONS = 64
"""As PyTorch has it."""

MAX_VALUES = 1_000_000
"""As counted by somebody who walks through all containers, each as often as it is referred to."""

MAX_KEY = 4096
"""Characters; comparing long ones is work."""

MAX_NUMBER = 2**60
_MAX_IN_PAIR = 2**31
"""Larger keys can be chosen to have equal hashes, and a dict of those takes hours."""


class NotAllowedError(Exception):
    """Something in a pickle that is not read; the message goes on from the file's name."""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a function or class that may be called; nothing more than the name."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageType:
    """The class of a storage; ``dtype`` is None for mere bytes."""

    dtype: torch.dtype | None


@dataclass(slots=True, eq=False)
class Storage:
    """Bytes of one or several tensors in the file.

    Attributes:
        key: name of the storage in the file.
        dtype: of its elements; None for mere bytes.
        size: in bytes.
        start: of its first byte in the file; -1 where it comes only after the pickle.
        crc32: of the bytes, 0 where the file has none.
        checked: whether the bytes were found to have it.
    """

    key: str
    dtype: torch.dtype | None
    size: int
    start: int = -1
    crc32: int = 0
    checked: bool = False


@dataclass(slots=True, eq=False)
class Placed:
    """A tensor in the file: strides and offset are in elements, from the start of its storage."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Elements from its first to its last, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum(map(operator.mul, self.shape, self.strides)) - sum(self.strides)

    @property
    def size(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check(self) -> None:
        """Refuse what does not lie in its storage or is more than it."""
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMENSIONS:
            raise ValueError("shape and strides differ")
        numbers = (self.offset, *self.shape, *self.strides)
        if {*map(type, numbers)} != {int} or min(numbers) < 0 or max(numbers) >= MAX_NUMBER:
            raise ValueError("shape of other than sizes")
        needed = max(math.prod(self.shape), self.offset + self.span) * self.dtype.itemsize
        if needed > self.storage.size:
            raise NotAllowedError(
                f"a tensor of shape {list(self.shape)} takes {needed} bytes, its storage "
                f"{shown(self.storage.key)} has {self.storage.size}"
            )


class InertNamespace(dict[str, Any]):
    """What an ``argparse.Namespace`` held."""


class InertDtype(str):
    """The code of a NumPy dtype, such as ``f8``.

    Attributes:
        order: ``<`` or ``>``, the order of its bytes.
    """

    order = "<"

    def set_state(self, state: Any) -> None:
        """Take what NumPy pickles beside the code, of which only the order of bytes matters."""
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                self.order = "<" if order in "|=" else order
            case _:
                raise NotAllowedError("holds a numpy.dtype of several fields, which is not read")


_LEAVES = {type(None), bool, int, float, str, bytes, torch.dtype, Placed, InertDtype}
_CONTAINERS = {dict, OrderedDict, InertNamespace, list, tuple}


def check_key(key: Any) -> None:
    """Refuse keys of dicts that are not plain, or whose hashes somebody could have chosen.

    Raises:
        NotAllowedError: for other than strings, bytes, bools, None, integers and pairs of these.
    """
    items, limit = (key, _MAX_IN_PAIR) if type(key) is tuple else ((key,), MAX_NUMBER)
    for item in items:
        kind = type(item)
        if kind not in (str, bytes, bool, int, type(None)) or len(items) > 2:
            raise NotAllowedError(f"holds a dict with a key of type {type(key).__name__}")
        if kind is int and abs(item) >= limit:
            raise NotAllowedError(f"holds a dict with a key of {len(str(item))} digits")
        if kind in (str, bytes) and len(item) > MAX_KEY:
            raise NotAllowedError(f"holds a dict with a key of {len(item)} characters")


def check_value(value: Any) -> None:
    """Refuse names left alone, containers in themselves, very deep or manifold ones.

    Raises:
        NotAllowedError: naming what is wrong.
    """
    _count((value,), 0, 0)


def _count(values: Collection[Any], count: int, depth: int) -> int:
    """``count`` and the number of values in ``values``, as often as they are referred to."""
    count += len(values)
    if count > MAX_VALUES:
        raise NotAllowedError(f"not read: more than {MAX_VALUES} values")
    for value in values:
        kind = type(value)
        if kind in _LEAVES:
            continue
        if kind not in _CONTAINERS:
            raise NotAllowedError(f"holds {shown(value)} by itself, which is not read")
        if depth == MAX_DEPTH:
            raise NotAllowedError(f"not read: containers more than {MAX_DEPTH} deep")
        items = value.values() if isinstance(value, dict) else value
        count = _count(items, count, depth + 1)
    return count


def shown(value: Any) -> str:
    """What an error calls ``value``: the name of a class or function, or the kind of a value."""
    if isinstance(value, Global):
        return value.name
    if isinstance(value, str):
        return ascii(value)[1:-1][:120]
    return type(value).__name__
