# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of everything a model has learnt."""

import copy

import torch
from torch import Tensor, nn


class ModelEma:
    """A second model whose weights and batch-norm statistics follow those of the first.

    After update ``t`` (from 0) the average moves by ``1 - d`` towards the model with
    ``d = min(decay, (1 + t) / (10 + t))``, so that it forgets the random start quickly.

    Args:
        model: the model to follow.
        decay: of the average, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards ``model`` (the same architecture, without wrappers) after one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        floats, integers = _state(model)
        average, counters = _state(self.module)
        torch._foreach_lerp_(average, floats, 1.0 - decay)
        for mine, theirs in zip(counters, integers, strict=True):
            mine.copy_(theirs)


def _state(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and buffers in a fixed order: floating-point ones, then integer ones."""
    tensors = [*model.parameters(), *model.buffers()]
    floats = [t.detach() for t in tensors if t.is_floating_point()]
    return floats, [t for t in tensors if not t.is_floating_point()]
