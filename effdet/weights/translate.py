# SPDX-License-Identifier: Apache-2.0
"""Find out which model a foreign file holds, and bring its tensors to our names."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from effdet.config import BN_EPS, ModelConfig
from effdet.models import EfficientDet, EfficientNetClassifier
from effdet.weights.source import Config, Shapes, Source
from effdet.weights.tensor_file import StoredTensor

COUNTER = "num_batches_tracked"
"""Ends the names of batch norms' step counters, which nothing here depends on."""


def our_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model."""
    return _shapes(_graph(config))


def _graph(config: Config) -> Config:
    """``config`` with all that no shape depends on set to one value."""
    same: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    if isinstance(config, ModelConfig):
        same |= {"name": "", "image_size": (512, 512), "anchor_scale": 4.0, "survival_prob": 1.0}
        same |= {"backbone_padding": None, "backbone_bn_eps": None}
    else:
        same |= {"padding": "same", "bn_eps": BN_EPS}
    return dataclasses.replace(config, **same)


@functools.lru_cache(maxsize=64)
def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = (
            EfficientDet(config)
            if isinstance(config, ModelConfig)
            else EfficientNetClassifier(config)
        )
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def state_dict(
    source: Source[Any], config: Config, stored: Mapping[str, StoredTensor]
) -> dict[str, Tensor]:
    """All tensors of our model out of the file's; step counters that it lacks are 0.

    Raises:
        WeightsError: from reading the file.
        KeyError: where a tensor is missing.
    """
    state = {}
    for name in our_shapes(config):
        theirs = source.names(config, name)
        if name.endswith(COUNTER) and not (theirs and all(n in stored for n in theirs)):
            state[name] = torch.zeros((), dtype=torch.int64)
        else:
            state[name] = source.to_ours(config, name, [stored[n].read() for n in theirs])
    return state


def faults(source: Source[Any], config: Config, shapes: Shapes) -> list[str]:
    """Why a file with ``shapes`` does not hold this model; empty where it does."""
    if other := source.other_model(shapes):
        return [other]
    found, used = [], set()
    for name, shape in our_shapes(config).items():
        theirs = source.names(config, name)
        used.update(theirs)
        missing = [n for n in theirs if n not in shapes]
        if name.endswith(COUNTER) and (missing or not theirs):
            continue
        if missing:
            found.append(f"{missing[0]} is missing")
            continue
        expected = source.from_ours(config, name, torch.empty(shape, device="meta"))
        for their_name, want in zip(theirs, expected, strict=True):
            if shapes[their_name] != want.shape:
                have = list(shapes[their_name])
                found.append(f"{their_name} is {have}, expected {list(want.shape)}")
    return found + [
        f"{name} is unknown"
        for name in shapes
        if name not in used and not source.is_extra(config, name)
    ]


def identify(source: Source[Any], shapes: Shapes) -> list[Config]:
    """Every model that a file with ``shapes`` may hold; several where all shapes are the same."""
    return [config for config in source.configs(shapes) if not faults(source, config, shapes)]


def nearest_model(source: Source[Any], shapes: Shapes) -> tuple[Config, list[str]] | None:
    """The model with the fewest faults, and these; None where there is nothing to try."""
    tried = [(config, faults(source, config, shapes)) for config in source.configs(shapes)]
    return min(tried, key=lambda pair: len(pair[1]), default=None)
