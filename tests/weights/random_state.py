# SPDX-License-Identifier: Apache-2.0
"""Random weights that leave no tensor at its initial value."""

import math

import torch
from torch import Tensor

from effdet.weights import translate
from effdet.weights.source import Config


def random_state(config: Config, seed: int = 0) -> dict[str, Tensor]:
    """All tensors of our model; running statistics and step counters are random too."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _random(name, shape, generator)
        for name, shape in translate.our_shapes(config).items()
    }


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith(translate.COUNTER):
        return torch.randint(1, 1000, shape, generator=generator)
    centered = 2 * torch.rand(shape, generator=generator) - 1
    if len(shape) > 1:
        return centered * math.sqrt(4.5 / math.prod(shape[1:]))
    if name.endswith("running_var") or name.endswith("fuse.weight"):
        return 1 + 0.5 * centered
    if name.endswith("bn.weight") or (".bns." in name and name.endswith(".weight")):
        return 1 + 0.2 * centered
    return 0.1 * centered
