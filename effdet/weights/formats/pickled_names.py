# SPDX-License-Identifier: Apache-2.0
"""The names that a pickle of PyTorch may hold, and what stands in for calls of them."""

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from effdet.weights.formats.pickled_values import (
    Global,
    InertDtype,
    NotAllowedError,
    Placed,
    Storage,
    StorageType,
    check_key,
)

NAMESPACE = "argparse.Namespace"

_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
}
_DTYPES = (
    *_STORAGES.values(),
    torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
)  # fmt: skip
_INDICES = [[], *([index] for index in range(128))]
_NUMBERS = {
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?",
}  # fmt: skip
"""NumPy's codes of numbers and those of ``struct``."""


def _tensor(*arguments: Any) -> Placed:
    """``torch._utils._rebuild_tensor``, ``_v2`` and ``_v3``: hooks and metadata must be empty."""
    storage, offset, shape, strides, *rest = arguments
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise ValueError("no tensor")
    dtype = storage.dtype
    for item in rest:
        if isinstance(item, torch.dtype):
            dtype = item
        elif item and item is not True:  # requires_grad
            raise NotAllowedError("holds a tensor with hooks or metadata, which is not read")
    if dtype is None:
        raise ValueError("bytes without a dtype")
    placed = Placed(storage, dtype, offset, shape, strides)
    placed.check()
    return placed


def _parameter(*arguments: Any) -> Placed:
    match arguments:
        case Placed() as placed, bool(), OrderedDict() as hooks if not hooks:
            return placed
    raise ValueError("no parameter")


def _ordered_dict(*arguments: Any) -> OrderedDict[Any, Any]:
    """Empty, or as Python 2 wrote it, from a list of pairs."""
    if not arguments:
        return OrderedDict()
    match arguments:
        case (list(pairs),):
            for key, _ in pairs:
                check_key(key)
            return OrderedDict((key, value) for key, value in pairs)
    raise ValueError("no OrderedDict")


def _counter(*arguments: Any) -> dict[Any, Any]:
    match arguments:
        case (dict(counts),) if all(type(count) is int for count in counts.values()):
            return dict(counts)
    raise ValueError("no Counter")


def _size(*arguments: Any) -> tuple[int, ...]:
    match arguments:
        case (tuple(sizes),) if all(type(size) is int for size in sizes):
            return sizes
    raise ValueError("no Size")


def _device(*arguments: Any) -> str:
    match arguments:
        case (str(kind), *index) if kind.isidentifier() and index in _INDICES:
            return ":".join(map(str, arguments))
    raise ValueError("no device")


def _bytes(*arguments: Any) -> bytes:
    """``_codecs.encode`` is how protocol 2 writes bytes; other codecs would be work to run."""
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin1")
    raise NotAllowedError("holds _codecs.encode of other than bytes, which is not read")


def _numpy_dtype(*arguments: Any) -> InertDtype:
    match arguments:
        case (str(code), bool() | int(), bool() | int()) if code in _NUMBERS:
            return InertDtype(code)
    raise NotAllowedError("holds a numpy.dtype of other than numbers, which is not read")


def _numpy_number(*arguments: Any) -> int | float | bool:
    match arguments:
        case (InertDtype() as dtype, bytes(content)):
            number: int | float | bool = struct.unpack(dtype.order + _NUMBERS[dtype], content)[0]
            return number
    raise NotAllowedError("holds a NumPy value of other than numbers, which is not read")


TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
"""What makes a tensor, and takes nothing that may be large."""

CALLS: dict[str, Callable[..., Any]] = {
    **TENSORS,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "_codecs.encode": _bytes,
}
"""What is made where a pickle calls a name: always by a function of this module."""

INERT_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy._core.multiarray.scalar": _numpy_number,
}
"""The same for what is read as a lifeless stand-in where that is asked for."""

NAMES: dict[str, Global | StorageType | torch.dtype] = {
    **{name: Global(name) for name in CALLS},
    **{f"torch.{name}Storage": StorageType(dtype) for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": StorageType(None),
    **{str(dtype): dtype for dtype in _DTYPES},
}
"""Every name that is allowed without stand-ins."""
