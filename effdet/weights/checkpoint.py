# SPDX-License-Identifier: Apache-2.0
"""The toolkit's own checkpoints: tensors and plain values, read without running any code.

A checkpoint is a dict with ``format``, ``version``, ``model_config``, ``class_map``, ``model`` and
``ema`` (state dicts, the latter maybe None), ``metrics`` and, to resume from, ``training``.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdet.config import ModelConfig
from effdet.errors import WeightsError
from effdet.models import EfficientDet, build_model
from effdet.structures import ClassMap

FORMAT = "effdet"
VERSION = 1
_ENTRIES = {
    "version": int,
    "model_config": dict,
    "class_map": dict,
    "model": dict,
    "ema": dict | None,
    "metrics": dict,
    "training": dict,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A detector on disk.

    Attributes:
        model_config: the graph, input and anchors.
        class_map: what the class outputs mean.
        model: weights as trained.
        ema: averaged weights, None where the run kept no average.
        metrics: COCO figures of these weights, empty where not measured.
        training: state to resume from, empty in files for use only.
    """

    model_config: ModelConfig
    class_map: ClassMap
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    metrics: Mapping[str, Any]
    training: Mapping[str, Any]

    def best_weights(self, use_ema: bool = True) -> Mapping[str, Tensor]:
        """The averaged weights where there are any and they are wanted, else the raw ones."""
        return self.ema if use_ema and self.ema is not None else self.model


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write ``checkpoint`` so that ``path`` always holds a whole file, the old one or the new."""
    path = Path(path)
    values = {
        "format": FORMAT,
        "version": VERSION,
        "model_config": checkpoint.model_config.to_dict(),
        "class_map": checkpoint.class_map.to_dict(),
        "model": dict(checkpoint.model),
        "ema": None if checkpoint.ema is None else dict(checkpoint.ema),
        "metrics": dict(checkpoint.metrics),
        "training": dict(checkpoint.training),
    }
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def read_tensors(path: str | Path) -> Any:
    """What is in a PyTorch file, on the CPU; only tensors and plain values are allowed.

    Raises:
        WeightsError: where the file is missing, damaged or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # there is no end to what damaged bytes make a reader raise
        # PyTorch's own words advise to run the file's code; only the name in them is of use.
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise WeightsError(f"{path}: damaged or not a PyTorch file") from error
        raise WeightsError(
            f"{path}: holds {found[1]}, which is neither a tensor nor a plain value; such files "
            "can run code and are not read"
        ) from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of this toolkit.

    Raises:
        WeightsError: where the file is missing, damaged, foreign or from a later version.
    """
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
    wrong = [
        n for n, kind in _ENTRIES.items() if n not in values or not isinstance(values[n], kind)
    ]
    if wrong:
        raise WeightsError(f"{path}: checkpoint with a missing or wrong entry ({wrong[0]})")
    try:
        return Checkpoint(
            model_config=ModelConfig.from_dict(values["model_config"]),
            class_map=ClassMap.from_dict(values["class_map"]),
            model=values["model"],
            ema=values["ema"],
            metrics=values["metrics"],
            training=values["training"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: checkpoint with a missing or wrong entry ({error})") from error


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
