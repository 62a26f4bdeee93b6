# SPDX-License-Identifier: Apache-2.0
"""The toolkit's own checkpoints: tensors and plain values, read without running any code.

A checkpoint is a dict with ``format``, ``version``, ``model_config``, ``class_map``, ``model`` and
``ema`` (state dicts, the latter maybe None), ``chosen`` (which of them to use), ``metrics`` and, to
resume from, ``training``; ``licence`` and ``origin`` where they are known. Since version 2 the
file ends with a digest of its bytes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from effdet.config import ModelConfig
from effdet.errors import DivergedError, WeightsError
from effdet.files import write_atomically
from effdet.models import EfficientDet, build_model
from effdet.structures import ClassMap
from effdet.weights.digest import check_digest, has_mark, save_with_digest
from effdet.weights.formats.pickled_values import NotAllowedError, check_key
from effdet.weights.formats.torch_file import read_contents, read_tensors

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
_OPTIONAL = {"licence": str, "origin": str, "summary": dict}
_PLAIN = {type(None), bool, int, float, str, bytes}


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A detector on disk.

    Attributes:
        model_config: the graph, input and anchors.
        class_map: what the class outputs mean.
        model: weights as trained.
        ema: averaged weights, None where the run kept no average.
        chosen: which of the two to use; the average where nothing else was found to be better.
        metrics: COCO figures of these weights, empty where not measured.
        training: state to resume from, empty in files for use only.
        licence: of the weights, empty where not known.
        origin: where the weights came from, in words; empty for weights that were trained here.
        summary: how they were trained, as far as known: ``epochs``, ``data`` and the like.
    """

    model_config: ModelConfig
    class_map: ClassMap
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    chosen: Literal["ema", "raw"] = "ema"
    metrics: Mapping[str, Any]
    training: Mapping[str, Any]
    licence: str = ""
    origin: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)

    def best_weights(self, use_ema: bool = True) -> Mapping[str, Tensor]:
        """The chosen weights; the raw ones where averaged are not wanted or not there."""
        averaged = use_ema and self.chosen == "ema" and self.ema is not None
        return self.ema if averaged and self.ema is not None else self.model


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write ``checkpoint`` so that ``path`` always holds a whole file, the old one or the new.

    Raises:
        DivergedError: where a tensor is not finite; nothing is written.
        TypeError: naming an entry that is neither a tensor nor a plain value.
        WriteError: with the system's reason; the old file is untouched.
    """
    values = storable(
        {
            "format": FORMAT,
            "version": VERSION,
            "model_config": checkpoint.model_config.to_dict(),
            "class_map": checkpoint.class_map.to_dict(),
            "model": checkpoint.model,
            "ema": checkpoint.ema,
            "chosen": "raw" if checkpoint.ema is None else checkpoint.chosen,
            "metrics": checkpoint.metrics,
            "training": checkpoint.training,
            "licence": checkpoint.licence,
            "origin": checkpoint.origin,
            "summary": checkpoint.summary,
        }
    )
    tensors = dict(_tensors(values))
    check_finite(tensors, path)
    size = sum(tensor.nbytes for tensor in tensors.values())
    write_atomically(path, lambda file: save_with_digest(values, file), size=size)


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


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in ``value`` with the name of its entry."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(item, _entry(name, key))


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


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of this toolkit; any byte that was changed since is found.

    Raises:
        WeightsError: where the file is missing, damaged, foreign or from a later version.
    """
    path = Path(path)
    has_digest = check_digest(path)
    values = read_tensors(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: not a checkpoint of this toolkit; an ImageNet classifier goes to "
            "train.py --backbone-weights"
        )
    version = values.get("version")
    if isinstance(version, int) and version > VERSION:
        raise WeightsError(
            f"{path}: checkpoint version {version}, this toolkit reads up to {VERSION}; "
            "upgrade effdet-toolkit"
        )
    if version == 1:
        values.setdefault("chosen", "ema")
    elif not has_digest:
        raise WeightsError(f"{path}: damaged: cut or changed at its end, its SHA-256 is missing")
    wrong = [
        n for n, kind in _ENTRIES.items() if n not in values or not isinstance(values[n], kind)
    ]
    wrong += [n for n, kind in _OPTIONAL.items() if not isinstance(values.get(n, kind()), kind)]
    if values.get("chosen") not in ("ema", "raw"):
        wrong.append("chosen")
    if wrong:
        raise WeightsError(f"{path}: checkpoint with a missing or wrong entry ({wrong[0]})")
    try:
        checkpoint = Checkpoint(
            model_config=ModelConfig.from_dict(values["model_config"]),
            class_map=ClassMap.from_dict(values["class_map"]),
            model=values["model"],
            ema=values["ema"],
            chosen="raw" if values["ema"] is None else values["chosen"],
            metrics=values["metrics"],
            training=values["training"],
            **{name: values[name] for name in _OPTIONAL if name in values},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: checkpoint with a missing or wrong entry ({error})") from error
    check_outputs(checkpoint.model_config, checkpoint.class_map, path)
    return checkpoint


def check_outputs(config: ModelConfig, class_map: ClassMap, path: str | Path) -> None:
    """Refuse a class map that contradicts the model's head.

    Raises:
        WeightsError: with both numbers.
    """
    if len(class_map) != config.num_classes:
        raise WeightsError(
            f"{path}: names for {len(class_map)} class outputs, but the model has "
            f"{config.num_classes}"
        )


def is_checkpoint(path: str | Path) -> bool:
    """Whether the file is a checkpoint of this toolkit, damaged or not."""
    if has_mark(Path(path)):
        return True
    try:
        value = read_contents(path).value
    except WeightsError:
        return False
    return isinstance(value, dict) and value.get("format") == FORMAT


def peek_step(path: str | Path) -> float:
    """The training step a checkpoint says it is of, without reading tensors or checking bytes.

    Infinite where the file cannot be read, so that reading it whole says why; -1 where it has no
    step.
    """
    try:
        return float(read_contents(path).value["training"].get("step", -1))
    except (WeightsError, LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return math.inf


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Put ``state`` into ``module``; every tensor must be there and fit.

    Raises:
        WeightsError: naming the first tensors that do not.
    """
    damaged = [
        name
        for name, value in state.items()
        if not isinstance(value, Tensor) or value.is_complex() or not value.isfinite().all()
    ]
    if damaged:
        raise WeightsError(f"{source}: {damaged[0]} is not a tensor of finite numbers")
    wanted = module.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in state]
    faults += [f"{name} is unknown" for name in state if name not in wanted]
    faults += [
        f"{name} is {list(state[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeightsError(f"{source}: weights of another model: {'; '.join(faults[:3])}{more}")
    module.load_state_dict(dict(state))


def load_model(
    checkpoint: Checkpoint, source: str | Path, *, use_ema: bool = True, channels_last: bool = True
) -> EfficientDet:
    """The detector of ``checkpoint``, in evaluation mode."""
    try:
        model = build_model(checkpoint.model_config, channels_last=channels_last)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{source}: model_config with a wrong value ({error})") from error
    load_state(model, checkpoint.best_weights(use_ema), source)
    return model.eval()
