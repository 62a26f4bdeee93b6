# SPDX-License-Identifier: Apache-2.0
"""The toolkit's own checkpoints: tensors and plain values, read without running any code.

A checkpoint is a dict with ``format``, ``version``, ``model_config``, ``class_map``, ``model`` and
``ema`` (state dicts, the latter maybe None), ``chosen`` (which of them to use), ``metrics`` and, to
resume from, ``training``; ``licence`` and ``origin`` where they are known. Since version 2 the
file ends with a digest of its bytes.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from effdet.config import ModelConfig
from effdet.errors import WeightsError
from effdet.files import write_atomically
from effdet.models import EfficientDet, build_model
from effdet.structures import ClassMap
from effdet.weights.digest import check_digest, has_mark, save_with_digest
from effdet.weights.entries import (
    FORMAT,
    OPTIONAL,
    VERSION,
    check_entries,
    check_no_nan,
    check_state,
    read_entries,
)
from effdet.weights.formats.torch_file import read_contents, read_tensors
from effdet.weights.storable import check_finite, storable, tensors_in


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
    tensors = dict(tensors_in(values))
    check_finite(tensors, path)
    size = sum(tensor.nbytes for tensor in tensors.values())
    write_atomically(path, lambda file: save_with_digest(values, file), size=size)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of this toolkit; any byte that was changed since is found.

    Raises:
        WeightsError: where the file is missing, damaged, foreign or from a later version.
    """
    path = Path(path)
    has_digest = check_digest(path)
    values = read_tensors(path, functools.partial(check_entries, path, has_digest))
    entries = read_entries(values, path)
    for state in (values["model"], values["ema"] or {}):
        check_no_nan(state, path)
    return Checkpoint(
        model_config=entries.model_config,
        class_map=entries.class_map,
        model=values["model"],
        ema=values["ema"],
        chosen="raw" if values["ema"] is None else values.get("chosen", "ema"),
        metrics=values["metrics"],
        training=values["training"],
        **{name: values[name] for name in OPTIONAL if name in values},
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
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_state(state, wanted, source)
    check_no_nan(state, source)
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
