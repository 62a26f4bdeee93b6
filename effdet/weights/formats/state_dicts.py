# SPDX-License-Identifier: Apache-2.0
"""The weights in what people save: a state dict, or one among epochs, options and averages."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from effdet.errors import WeightsError
from effdet.weights.formats.pickled_values import InertDtype, Placed

AVERAGES = {
    "state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict",
    "ema_model_state_dict", "ema_model",
}  # fmt: skip
"""Names that programs give to moving averages of the weights."""

_WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and training benches put before every name."""

_OF_BENCH = "anchors."
"""Start of the names of a training bench's own tensors, which have no prefix."""

_COUNTER = "n_averaged"
"""A step counter among the averages of ``torch.optim.swa_utils``."""

Found = tuple[dict[str, Placed], dict[str, Placed], dict[str, Any]]


def pick(value: Any, path: Path) -> Found:
    """Weights, their averages under the same names, and the plain values beside them.

    Args:
        value: what the file holds, with a ``Placed`` for each tensor.
        path: of the file, for errors.

    Raises:
        WeightsError: where there are no weights, or several that may be meant.
    """
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: holds one {_kind(value)}, expected tensors with names")
    groups = {key: item for key, item in value.items() if _is_state_dict(item)}
    # A parameter's name has a dot; class weights and the like stand beside many state dicts.
    loose = [key for key, item in value.items() if _is_weight(item) and "." in str(key)]
    averages = [key for key in groups if key in AVERAGES]
    weights = [key for key in groups if key not in AVERAGES] or averages[:1]
    averages = [key for key in averages if key not in weights]
    for keys in (weights + loose[:1], averages):
        if len(keys) > 1:
            raise WeightsError(
                f"{path}: holds several sets of weights ({' and '.join(map(_shown, keys[:2]))}); "
                "save the wanted one alone"
            )
    if not groups and not _is_state_dict(value):
        raise WeightsError(f"{path}: holds no weights ({_names(value)})")
    state = groups[weights[0]] if weights else value
    tensors = _tensors(state, path)
    mean = _tensors(groups[averages[0]], path) if averages else {}
    for name, placed in mean.items():
        if name not in tensors or tensors[name].shape != placed.shape:
            raise WeightsError(
                f"{path}: {averages[0]} holds {name} {list(placed.shape)}, which {weights[0]} has "
                "not or in another shape"
            )
    values = {str(key): item for key, item in value.items() if key not in groups}
    values |= {str(key): item for key, item in state.items()}
    return tensors, mean, plain(values)


def plain(value: Any) -> Any:
    """``value`` without tensors, and without lists of them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not _has_tensors(item)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, torch.dtype | InertDtype) else value


def _has_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_tensors, value))
    return isinstance(value, Placed)


def _is_weight(value: Any) -> bool:
    return isinstance(value, Placed) and value.dtype.is_floating_point


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and any(map(_is_weight, value.values()))


def _tensors(state: Mapping[Any, Any], path: Path) -> dict[str, Placed]:
    """The tensors of a state dict by their names without wrappers."""
    tensors = {key: item for key, item in state.items() if isinstance(item, Placed)}
    tensors.pop(_COUNTER, None)
    for key in tensors:
        if not isinstance(key, str) or not key.isprintable():
            raise WeightsError(f"{path}: a tensor has the name {ascii(key)[:80]}, expected a text")
    start = len(_wrapper(tensors))
    return {
        name if name.startswith(_OF_BENCH) else name[start:]: item for name, item in tensors.items()
    }


def _wrapper(names: Iterable[str]) -> str:
    """The prefixes of wrappers, in any order, that all names have."""
    names = [name for name in names if not name.startswith(_OF_BENCH)]
    found = ""
    while names:
        longer = (
            found + wrapper
            for wrapper in _WRAPPERS
            if all(name.startswith(found + wrapper) for name in names)
        )
        new = next(longer, None)
        if new is None:
            break
        found = new
    return found


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, Placed) else type(value).__name__


def _names(value: Mapping[Any, Any]) -> str:
    names = [_shown(key) for key in value]
    return ", ".join([*names[:3], "..."] if len(names) > 3 else names) or "it is empty"


def _shown(key: Any) -> str:
    return ascii(key).strip("'")[:80]
