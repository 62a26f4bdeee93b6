# SPDX-License-Identifier: Apache-2.0
"""Weights as another program would store them, made of ours."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from effdet.weights.source import Config, Source
from effdet.weights.tensor_file import StoredTensor


def export(source: Source[Any], config: Config, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors, by its names, out of all tensors of our model."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        names = source.names(config, name)
        if names:
            theirs.update(zip(names, source.from_ours(config, name, tensor), strict=True))
    return theirs


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """Tensors that are read already, in the shape of a file's."""
    return {
        name: StoredTensor(tuple(t.shape), t.dtype, functools.partial(_same, t))
        for name, t in tensors.items()
    }


def _same(tensor: Tensor) -> Tensor:
    return tensor
