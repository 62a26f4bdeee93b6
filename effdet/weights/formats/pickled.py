# SPDX-License-Identifier: Apache-2.0
"""What a pickle of PyTorch holds, found out without calling anything that it names.

A pickle is a program for a stack machine that may import and call whatever it likes. This machine
knows the operations that ``torch.save`` writes, names that mean tensors and plain containers, and
nothing else: a name is a word to it, and a call is looked up in a table of functions of ours. What
it has read through is safe for ``torch.load(weights_only=True)`` as well, which by itself lets a
thousand bytes ask for gigabytes or for hours.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from pickletools import opcodes
from typing import Any

from effdet.errors import WeightsError
from effdet.weights.formats.pickled_names import CALLS, INERT_CALLS, NAMES, NAMESPACE, TENSORS
from effdet.weights.formats.pickled_values import (
    Global,
    InertDtype,
    InertNamespace,
    NotAllowedError,
    Storage,
    check_key,
    check_value,
    shown,
)

MAX_BYTES = 16 * 2**20
"""Of one pickle; the largest detector with its optimizer state needs one."""

MAX_OPERATIONS = 2_000_000
"""Of one pickle; the largest detector with average and momentum needs 210,000."""

_STOP = ord(".")
_LONGEST_NAME, _MOST_ARGUMENTS = 256, 8
_UINT2, _UINT4, _INT4 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<i")
_DOUBLE = struct.Struct(">d")
_PER_ITEM = 32
"""Bytes that an item of a container counts for."""


class Pickle:
    """One pickle among the bytes of a file.

    Args:
        content: the bytes.
        path: of the file, for errors.
        start: where the pickle begins in ``content``.
        storage: what a persistent id stands for; None where there must be none.
        inert: read ``argparse.Namespace`` and NumPy's numbers and dtypes as lifeless stand-ins.

    Attributes:
        end: where it ends, once read.
        found: names of the classes and functions that have a stand-in, in order.
    """

    def __init__(
        self,
        content: bytes,
        path: Path,
        *,
        start: int = 0,
        storage: Callable[[tuple[Any, ...]], Storage] | None = None,
        inert: bool = False,
    ) -> None:
        self.content = content
        self.path = path
        self.end = start
        self.found: dict[str, None] = {}
        self._storage = storage
        self._inert = inert
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def read(self) -> Any:
        """The value: plain values and containers, a ``Placed`` for each tensor.

        Raises:
            WeightsError: naming what is not allowed; where the pickle is damaged or too large.
        """
        try:
            return self._run()
        except NotAllowedError as error:
            raise WeightsError(f"{self.path}: {error}") from error
        except (LookupError, TypeError, ValueError, struct.error) as error:
            if self.end >= MAX_BYTES:
                raise WeightsError(
                    f"{self.path}: not read: a pickle of more than {MAX_BYTES} bytes"
                ) from error
            raise WeightsError(f"{self.path}: damaged: its pickle cannot be read") from error

    def _run(self) -> Any:
        content, operations = self.content, _OPERATIONS
        for _ in range(MAX_OPERATIONS):
            code = content[self.end]
            self.end += 1
            if code == _STOP:
                return self._result()
            operations[code](self)
        raise NotAllowedError(f"not read: a pickle of more than {MAX_OPERATIONS} operations")

    def _result(self) -> Any:
        (value,) = self._stack
        if self._below:
            raise ValueError("unfinished containers")
        check_value(value)
        return value

    # --- bytes ---

    def _take(self, count: int) -> bytes:
        taken = self.content[self.end : self.end + count]
        if len(taken) < count:
            self.end = len(self.content)
            raise ValueError("cut")
        self.end += count
        return taken

    def _byte(self) -> int:
        self.end += 1
        return self.content[self.end - 1]

    def _number(self, form: struct.Struct) -> Any:
        (number,) = form.unpack_from(self.content, self.end)
        self.end += form.size
        return number

    def _line(self) -> str:
        end = self.content.index(b"\n", self.end, self.end + _LONGEST_NAME)
        line = self.content[self.end : end].decode("ascii")
        self.end = end + 1
        return line

    # --- operations; what they do is the documentation of pickletools ---

    def _unknown(self) -> None:
        code = self.content[self.end - 1]
        name = _KNOWN.get(chr(code), hex(code))
        raise NotAllowedError(f"holds the pickle operation {name}, which torch.save does not write")

    def _protocol(self) -> None:
        version = self._byte()
        if version != 2:
            raise NotAllowedError(f"not read: pickle protocol {version}, torch.save writes 2")

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _above_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def _tuple(self) -> None:
        items = tuple(self._above_mark())
        self._stack.append(items)

    def _tuple_of(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) < count:
            raise ValueError("too few values")
        self._stack[-count:] = [items]

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("no list")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise ValueError("no dict")
        for key, value in zip(items[::2], items[1::2]):
            check_key(key)
            target[key] = value

    def _global(self) -> None:
        name = f"{self._line()}.{self._line()}"
        value = NAMES.get(name)
        if value is None and self._inert and (name in INERT_CALLS or name == NAMESPACE):
            self.found[name] = None
            value = Global(name)
        if value is None:
            raise NotAllowedError(_refusal(name))
        self._stack.append(value)

    def _call(self) -> None:
        arguments = self._stack.pop()
        function = self._stack[-1]
        name = function.name if type(function) is Global else ""
        call = CALLS.get(name) or INERT_CALLS.get(name)
        if call is None or type(arguments) is not tuple:
            raise NotAllowedError(f"holds a call of {shown(function)}, which is not read")
        if len(arguments) > _MOST_ARGUMENTS:
            raise ValueError("too many arguments")
        if name not in TENSORS:
            self._count_copied(arguments)
        self._stack[-1] = call(*arguments)

    def _new_object(self) -> None:
        arguments = self._stack.pop()
        kind = self._stack[-1]
        if type(kind) is not Global or kind.name != NAMESPACE or arguments != ():
            raise NotAllowedError(f"holds an object of {shown(kind)}, which is not read")
        self._stack[-1] = InertNamespace()

    def _set_state(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) is InertNamespace and type(state) is dict:
            self._count_copied((state,))
            target.update(state)
        elif type(target) is InertDtype:
            target.set_state(state)
        elif type(target) is not OrderedDict or type(state) is not dict or [*state] != _METADATA:
            raise NotAllowedError(f"sets the state of {shown(target)}, which is not read")

    def _count_copied(self, values: tuple[Any, ...]) -> None:
        """Refuse a few bytes that have the same values copied again and again."""
        for value in values:
            if isinstance(value, str | bytes | Collection):
                self._copied += len(value) * (1 if isinstance(value, str | bytes) else _PER_ITEM)
        if self._copied > MAX_BYTES:
            raise NotAllowedError("not read: the same values copied again and again")

    def _persistent(self) -> None:
        identity = self._stack.pop()
        if self._storage is None or type(identity) is not tuple:
            raise NotAllowedError("holds a reference to something outside, which is not read")
        self._stack.append(self._storage(identity))

    def _remember(self) -> None:
        self._memo[self._byte()] = self._stack[-1]

    def _remember_long(self) -> None:
        self._memo[self._number(_UINT4)] = self._stack[-1]

    def _text(self) -> None:
        content = self._take(self._number(_UINT4))
        self._stack.append(content.decode("utf-8", "surrogatepass"))


def _refusal(name: str) -> str:
    if name.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_")):
        return f"holds {shown(name)}, a kind of tensor that is not read"
    reason = "such files can run code and are not read"
    if name in INERT_CALLS or name == NAMESPACE:
        reason = "`effdet convert` reads such files"
    return f"holds {shown(name)}, which is neither a tensor nor a plain value; {reason}"


_KNOWN = {operation.code: operation.name for operation in opcodes}

_METADATA = ["_metadata"]
"""What ``nn.Module.state_dict`` hangs onto its dict: versions of modules. It is left out."""

_ALLOWED: dict[bytes, Callable[[Pickle], object]] = {
    b"\x80": Pickle._protocol,
    b"(": Pickle._mark,
    b"}": lambda p: p._stack.append({}),
    b"]": lambda p: p._stack.append([]),
    b")": lambda p: p._stack.append(()),
    b"t": Pickle._tuple,
    b"\x85": lambda p: p._tuple_of(1),
    b"\x86": lambda p: p._tuple_of(2),
    b"\x87": lambda p: p._tuple_of(3),
    b"a": lambda p: p._append([p._stack.pop()]),
    b"e": lambda p: p._append(p._above_mark()),
    b"s": lambda p: p._set([p._stack.pop(), p._stack.pop()][::-1]),
    b"u": lambda p: p._set(p._above_mark()),
    b"N": lambda p: p._stack.append(None),
    b"\x88": lambda p: p._stack.append(True),
    b"\x89": lambda p: p._stack.append(False),
    b"K": lambda p: p._stack.append(p._byte()),
    b"M": lambda p: p._stack.append(p._number(_UINT2)),
    b"J": lambda p: p._stack.append(p._number(_INT4)),
    b"\x8a": lambda p: p._stack.append(int.from_bytes(p._take(p._byte()), "little", signed=True)),
    b"G": lambda p: p._stack.append(p._number(_DOUBLE)),
    b"X": Pickle._text,
    b"U": lambda p: p._stack.append(p._take(p._byte()).decode("utf-8")),
    b"h": lambda p: p._stack.append(p._memo[p._byte()]),
    b"j": lambda p: p._stack.append(p._memo[p._number(_UINT4)]),
    b"q": Pickle._remember,
    b"r": Pickle._remember_long,
    b"c": Pickle._global,
    b"R": Pickle._call,
    b"\x81": Pickle._new_object,
    b"b": Pickle._set_state,
    b"Q": Pickle._persistent,
}
"""The operations that PyTorch's own restricted reader knows too, without those for sets."""

_OPERATIONS = [_ALLOWED.get(bytes([code]), Pickle._unknown) for code in range(256)]
