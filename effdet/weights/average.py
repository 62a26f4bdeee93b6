# SPDX-License-Identifier: Apache-2.0
"""One set of weights out of several checkpoints of the same model."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from effdet.counts import counted
from effdet.errors import UsageError, WeightsError
from effdet.settings import AverageConfig
from effdet.weights.checkpoint import Checkpoint
from effdet.weights.open import load_detector
from effdet.weights.write import check_new_weights, write_weights

Load = Callable[[Path], Checkpoint]


def average_weights(config: AverageConfig) -> str:
    """Write the average that ``effdet average`` is asked for; one line says what was done.

    Raises:
        UsageError: where the output is there already, or as :func:`best_checkpoints`.
        WeightsError: as :func:`average_checkpoints`.
        WriteError: with the system's reason.
    """
    output = Path(config.output)
    check_new_weights(output)
    paths: Sequence[str | Path] = config.checkpoint
    if config.best:
        paths = best_checkpoints(paths, config.best)
    write_weights(average_checkpoints(paths, use_ema=config.use_ema), output)
    return f"{output}: average of {counted(len(paths), 'checkpoint')}: {', '.join(map(str, paths))}"


def average_checkpoints(
    paths: Sequence[str | Path], *, use_ema: bool = True, load: Load = load_detector
) -> Checkpoint:
    """The uniform average of the best weights of several checkpoints.

    Weights and running means are averaged, and so are running variances: that leaves out how far
    the means lie apart, which is little among the checkpoints of one run. The counters of batch
    norms, which nothing depends on, are those of the first file. Sums are in float64, one file at a
    time.

    Args:
        paths: two files or more.
        use_ema: take averaged weights where a file says that these are its best.
        load: reads a file.

    Returns:
        A checkpoint for use, with no figures: the average has not been validated.

    Raises:
        UsageError: for fewer than two files, or the same one twice.
        WeightsError: naming file and tensor or setting, where the models or their classes differ or
            a number is not finite.
    """
    files = _distinct(paths)
    first = load(files[0])
    sums: dict[str, Tensor] = {}
    for number, path in enumerate(files):
        checkpoint = load(path) if number else first
        _check_same_model(checkpoint, path, first, files[0])
        state = checkpoint.best_weights(use_ema)
        _check_tensors(state, path, first.best_weights(use_ema), files[0])
        for name, tensor in state.items():
            if tensor.is_floating_point():
                sums[name] = tensor.double() + sums.get(name, 0.0)
            else:
                sums.setdefault(name, tensor)
    averages = {
        name: (total / len(files)).float() if total.is_floating_point() else total
        for name, total in sums.items()
    }
    return dataclasses.replace(
        first, model=averages, ema=None, chosen="raw", metrics={}, training={}
    )


def best_checkpoints(
    paths: Sequence[str | Path], count: int, *, load: Load = load_detector
) -> list[Path]:
    """The ``count`` files with the highest AP that they say they have, best first.

    Raises:
        UsageError: where there are fewer files, or the same one twice.
        WeightsError: for a file that has no AP.
    """
    files = _distinct(paths)
    if count > len(files):
        raise UsageError(f"--best {count} of {counted(len(files), 'checkpoint')}: give more")
    aps = {path: _ap(load(path), path) for path in files}
    return sorted(files, key=lambda path: aps[path], reverse=True)[:count]


def _distinct(paths: Sequence[str | Path]) -> list[Path]:
    files = [Path(path) for path in paths]
    if len(files) < 2:
        raise UsageError(f"an average needs two checkpoints or more, got {len(files)}")
    seen: set[str] = set()
    for path in files:
        place = os.path.realpath(path)  # Path.resolve() fails on links in a circle
        if place in seen:
            raise UsageError(f"{path} is given twice")
        seen.add(place)
    return files


def _ap(checkpoint: Checkpoint, path: Path) -> float:
    ap = checkpoint.metrics.get("AP")
    if not isinstance(ap, int | float):
        raise WeightsError(
            f"{path}: has no AP, so it cannot be among the best; give files of validated epochs, "
            "or all of them without --best"
        )
    return float(ap)


def _check_same_model(checkpoint: Checkpoint, path: Path, first: Checkpoint, to: Path) -> None:
    for field in dataclasses.fields(first.model_config):
        have, want = (getattr(c.model_config, field.name) for c in (checkpoint, first))
        if have != want:
            raise WeightsError(f"{path}: its model has {field.name} {have}, that of {to} {want}")
    if checkpoint.class_map != first.class_map:
        have, want = (", ".join(map(str, c.class_map.names)) for c in (checkpoint, first))
        how = f"{have} and {want}" if have != want else "the category ids differ"
        raise WeightsError(f"{path}: its classes are not those of {to}: {how}")


def _check_tensors(
    state: Mapping[str, Tensor], path: Path, first: Mapping[str, Tensor], to: Path
) -> None:
    odd = sorted(state.keys() ^ first.keys())
    if odd:
        raise WeightsError(f"{path}: {odd[0]} is in only one of it and {to}")
    for name, tensor in state.items():
        like = first[name]
        if not isinstance(tensor, Tensor) or not isinstance(like, Tensor):
            raise WeightsError(f"{path}: {name} is not a tensor there or in {to}")
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise WeightsError(
                f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}, in {to} {like.dtype} "
                f"{list(like.shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: {name} is not finite everywhere; leave this file out")
