# SPDX-License-Identifier: Apache-2.0
"""Running statistics of batch norms that a step without finite gradients must not spoil."""

import torch
from torch import Tensor, nn

from effdet.ops.ema import joined_averages, split_averages


class RunningStatistics:
    """Takes back what a forward pass has done to the running means and variances of a model.

    They move in the forward pass, before anyone knows whether the step can be taken, and one
    infinite activation would stay in them for good. The tensors keep their names and identity, but
    lie one behind the other in one buffer, so that keeping them is one copy.

    Args:
        model: on its device already.
    """

    def __init__(self, model: nn.Module) -> None:
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        self._joined = joined_averages(buffers)
        for buffer, place in zip(buffers, split_averages(self._joined, buffers), strict=True):
            place.copy_(buffer)
            buffer.data = place
        self._kept = [torch.empty_like(values) for values in self._joined]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember the values of now."""
        for kept, values in zip(self._kept, self._joined, strict=True):
            kept.copy_(values)

    @torch.no_grad()
    def take_back(self, skipped: Tensor) -> None:
        """Where the scalar ``skipped`` is true, the kept values again; it is not read here."""
        for kept, values in zip(self._kept, self._joined, strict=True):
            torch.where(skipped, kept, values, out=values)
