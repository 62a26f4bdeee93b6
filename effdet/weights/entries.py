# SPDX-License-Identifier: Apache-2.0
"""What must be in a checkpoint or a published file, looked at before a tensor is read or made.

A file may say that its model is of any size, and have one number stand for a trillion: nothing of
that size is made before the file has shown that it holds it.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from effdet.config import ModelConfig
from effdet.errors import WeightsError, shown
from effdet.structures import ClassMap
from effdet.weights.formats.pickled_values import Placed
from effdet.weights.translate import COUNTER, our_shapes

FORMAT = "effdet"
VERSION = 2

_ENTRIES = {
    "version": int,
    "model_config": dict,
    "class_map": dict,
    "model": dict,
    "ema": dict | None,
    "chosen": str,
    "metrics": dict,
    "training": dict,
}
OPTIONAL = {"licence": str, "origin": str, "summary": dict}
"""Entries that files of older versions may lack."""

FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_MOST_TOLD = 3
"""Tensors that a message names."""


class Entries(NamedTuple):
    """What builds the model, and what its outputs mean."""

    model_config: ModelConfig
    class_map: ClassMap


def check_entries(path: Path, has_digest: bool, values: Any) -> None:
    """Refuse a checkpoint that lacks something, or whose tensors are not those of its model.

    Args:
        path: of the file, for errors.
        has_digest: whether it ends with a digest, which is right.
        values: what is in it, with a ``Placed`` for each tensor.

    Raises:
        WeightsError: naming the entry or the tensors.
    """
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: not a checkpoint of this toolkit; an ImageNet classifier goes to "
            "train.py --backbone-weights"
        )
    version = values.get("version")
    if isinstance(version, int) and version > VERSION:
        raise WeightsError(
            f"{path}: checkpoint version {shown(version)}, this toolkit reads up to {VERSION}; "
            "upgrade effdet-toolkit"
        )
    if version != 1 and not has_digest:
        raise WeightsError(f"{path}: damaged: cut or changed at its end, its SHA-256 is missing")
    needed = {name: kind for name, kind in _ENTRIES.items() if version != 1 or name != "chosen"}
    wrong = [n for n, k in needed.items() if n not in values or not isinstance(values[n], k)]
    wrong += [n for n, kind in OPTIONAL.items() if not isinstance(values.get(n, kind()), kind)]
    if values.get("chosen", "ema") not in ("ema", "raw"):
        wrong.append("chosen")
    if wrong:
        raise WeightsError(f"{path}: checkpoint with a missing or wrong entry ({wrong[0]})")
    shapes = our_shapes(read_entries(values, path).model_config)
    for name in ("model", "ema"):
        if values[name] is not None:
            check_state(values[name], shapes, path)
    for name, value in values.items():
        _check_apart(name, value, path)


def read_entries(values: Mapping[str, Any], path: str | Path) -> Entries:
    """The model and the classes that a file is of.

    Raises:
        WeightsError: where they are damaged, larger than any of use, or contradict each other.
    """
    try:
        config = ModelConfig.from_dict(values["model_config"])
        class_map = ClassMap.from_dict(values["class_map"])
    except KeyError as error:
        raise WeightsError(f"{path}: has a missing entry ({shown(error.args[0])})") from error
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: has a missing or wrong entry ({_cut(error)})") from error
    if len(class_map) != config.num_classes:
        raise WeightsError(
            f"{path}: names for {len(class_map)} class outputs, but the model has "
            f"{config.num_classes}"
        )
    return Entries(config, class_map)


def check_state(
    state: Mapping[Any, Any], wanted: Mapping[str, tuple[int, ...]], source: str | Path
) -> None:
    """Refuse a state dict whose tensors are not those of a model, in name, shape or type.

    Args:
        state: tensors, or what stands for them while they are in their file.
        wanted: the shapes of the model's tensors.
        source: where it comes from, for people.

    Raises:
        WeightsError: naming the first that differ.
    """
    for name, value in state.items():
        if not _is_number(name, value):
            kind = str(value.dtype).removeprefix("torch.") if _is_shaped(value) else "no tensor"
            raise WeightsError(f"{source}: {_cut(name)} is not a tensor of finite numbers ({kind})")
    faults = [f"{name} is missing" for name in wanted if name not in state]
    faults += [f"{_cut(name)} is unknown" for name in state if name not in wanted]
    faults += [
        f"{name} is {shown(list(state[name].shape))}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if faults:
        more = f" and {len(faults) - _MOST_TOLD} more" if len(faults) > _MOST_TOLD else ""
        told = "; ".join(faults[:_MOST_TOLD])
        raise WeightsError(f"{source}: weights of another model: {told}{more}")


def check_no_nan(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse tensors with a number that is not finite.

    Raises:
        WeightsError: naming the first.
    """
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{source}: {name} is not a tensor of finite numbers")


def _is_shaped(value: Any) -> bool:
    return hasattr(value, "shape") and isinstance(getattr(value, "dtype", None), torch.dtype)


def _is_number(name: Any, value: Any) -> bool:
    """Whether it is a tensor of floats, or a batch norm's step counter."""
    if not _is_shaped(value):
        return False
    counts = value.dtype == torch.int64 and str(name).endswith(COUNTER)
    return counts or value.dtype in FLOATS


def _check_apart(entry: str, value: Any, path: Path) -> None:
    """Refuse tensors of one entry that lie on each other, or whose elements do: ours never do.

    What changes one of them would change the other, and few bytes could be any number of tensors.
    """
    ranges: dict[Any, list[tuple[int, int, str]]] = {}
    for name, placed in _placed(value, str(entry)):
        if placed.span * placed.dtype.itemsize != placed.size:
            raise WeightsError(f"{path}: {_cut(name)} is not stored element by element")
        start = placed.offset * placed.dtype.itemsize
        ranges.setdefault(placed.storage, []).append((start, start + placed.size, name))
    for parts in ranges.values():
        parts.sort()
        for (_, end, name), (start, _, other) in itertools.pairwise(parts):
            if start < end:
                raise WeightsError(f"{path}: {_cut(name)} and {_cut(other)} share their numbers")


def _placed(value: Any, name: str = "") -> Iterator[tuple[str, Placed]]:
    if isinstance(value, Placed):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _placed(item, f"{name}[{shown(key)}]" if name else str(key))


def _cut(value: object) -> str:
    """What people are told of a text out of a file, without quotes."""
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."
