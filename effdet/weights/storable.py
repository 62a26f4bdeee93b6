# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint may hold: tensors of finite numbers and plain values, which are read safely."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdet.errors import DivergedError
from effdet.weights.formats.pickled_values import NotAllowedError, check_key

_PLAIN = {type(None), bool, int, float, str, bytes}


def storable(value: Any, name: str = "") -> Any:
    """``value`` as tensors, dicts, lists, tuples and plain values, which can be read safely.

    NumPy's numbers become Python's; anything else is refused.

    Raises:
        TypeError: naming the entry, as in ``training['config']['output']``.
    """
    if isinstance(value, Mapping):
        return {
            _storable_key(k, f"{name}: the key {k!r}"): storable(v, _entry(name, k))
            for k, v in value.items()
        }
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        items = [storable(item, _entry(name, index)) for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, Tensor) and type(value.detach()) is Tensor:
        return value.detach()
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) not in _PLAIN:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"checkpoint entry {name} is a {kind}, expected a tensor or a plain value")
    if value == b"":  # PyTorch writes it in a way that it does not read
        raise TypeError(f"checkpoint entry {name} is empty bytes, which could not be read again")
    return value


def _storable_key(key: Any, name: str) -> Any:
    key = storable(key, name)
    try:
        check_key(key)
    except NotAllowedError as error:
        raise TypeError(f"checkpoint entry {name} could not be read again") from error
    return key


def _entry(name: str, key: Any) -> str:
    return f"{name}[{key!r}]" if name else str(key)


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in ``value`` with the name of its entry."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors_in(item, _entry(name, key))


def check_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse to write tensors to ``path`` that are not finite.

    Raises:
        DivergedError: naming the first.
    """
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    # One answer for each device, so that a GPU is waited for once.
    finite = [tensors[name].isfinite().all() for name in names]
    if all(
        torch.stack([f for f in finite if f.device == d]).all() for d in {f.device for f in finite}
    ):
        return
    name = next(name for name, value in zip(names, finite) if not value)
    raise DivergedError(
        f"{path} is not written: {name} is not finite any more; what was saved before is kept"
    )
