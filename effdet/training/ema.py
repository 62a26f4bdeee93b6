# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of everything a model has learnt."""

import copy
import operator

import torch
from torch import Tensor, nn

from effdet.ops.ema import check_pairs, ema_update_, joined_averages, split_averages

# A dictionary of a module (its parameters or buffers) and a name in it. The tensors are looked up
# again at every update, at a twentieth of the time of parameters() and buffers().
Slot = tuple[dict[str, Tensor], str]


class ModelEma:
    """A second model whose weights and batch-norm statistics follow those of the first.

    After update ``t`` (from 0) the average moves by ``1 - d`` towards the model with
    ``d = min(decay, (1 + t) / (10 + t))``, so that it forgets the random start quickly.

    The tensors of ``module`` keep names, shapes and strides, but lie one behind the other in one
    buffer a dtype, float32 for 16-bit weights, so that an update is one pass over memory. After
    ``module.to(...)``, or where a tensor was replaced, the next update makes new buffers.

    Args:
        model: the model to follow, on one device. Its tensors may change and be replaced, its
            modules may not.
        decay: of the average, below 1.

    Attributes:
        module: the averaged model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._slots = _slots(self.module)
        self._followed: tuple[nn.Module, list[Slot]] | None = None
        self._pointers: list[int] = []
        self._count = torch.zeros(2, dtype=torch.int64, device="cpu")  # see effdet.ops.ema_update_
        self._join([names[name] for names, name in self._slots])

    @property
    def updates(self) -> int:
        """Updates done; reading it waits for the device."""
        return int(self._count[0].item())

    @updates.setter
    def updates(self, number: int) -> None:
        if not 0 <= operator.index(number) < 2**62:
            raise ValueError(f"updates must be at least 0 and below 2**62, got {number}")
        self._count[0] = number

    @torch.no_grad()
    def update(self, model: nn.Module, found_inf: Tensor | None = None) -> None:
        """Move towards ``model`` (the same architecture, without wrappers) after one step.

        Args:
            model: the model to follow.
            found_inf: one float32 on its device; where it is not 0, nothing is done. It is not
                read on the host.

        Raises:
            ValueError: for a model of another architecture or on another device than ``module``.
        """
        averages = [names[name] for names, name in self._slots]
        values = self._values(model)
        pointers = [tensor.data_ptr() for tensor in (*averages, *values)]
        if pointers != self._pointers:
            self._arrange(averages, values)
        ema_update_(
            self._buffers,
            values,
            self._count,
            decay=self.decay,
            found_inf=found_inf,
            joined=True,
        )

    def _values(self, model: nn.Module) -> list[Tensor]:
        """The tensors of ``model`` in the order of the averages."""
        if self._followed is None or self._followed[0] is not model:
            slots = _slots(model)
            if len(slots) != len(self._slots):
                raise ValueError(
                    f"model must have {len(self._slots)} parameters and buffers as the average, "
                    f"got {len(slots)}"
                )
            self._followed = model, slots
        return [names[name] for names, name in self._followed[1]]

    def _arrange(self, averages: list[Tensor], values: list[Tensor]) -> None:
        """Where tensors have moved: see that the averages are joined, in the values' order."""
        joined = split_averages(self._buffers, averages)
        if any(a.data_ptr() != b.data_ptr() for a, b in zip(averages, joined)):
            self._join(averages)
        check_pairs(averages, values, self._count)
        if any(a.stride() != v.stride() for a, v in zip(averages, values)):
            self._join(values)
        self._pointers = [tensor.data_ptr() for tensor in (*averages, *values)]

    @torch.no_grad()
    def _join(self, like: list[Tensor]) -> None:
        """Move the averages into new buffers, with the strides of ``like``."""
        averages = [names[name] for names, name in self._slots]
        devices = sorted({str(tensor.device) for tensor in averages})
        if len(devices) > 1:
            raise ValueError(f"model must be on one device, got {', '.join(devices)}")
        self._buffers = joined_averages(like)
        for average, place in zip(averages, split_averages(self._buffers, like)):
            place.copy_(average)
            average.data = place
        if averages:
            self._count = self._count.to(averages[0].device)


def _slots(model: nn.Module) -> list[Slot]:
    """Where parameters and buffers are kept, each tensor once, in the order of the modules."""
    modules = list(model.modules())
    kept = [m._parameters for m in modules] + [m._buffers for m in modules]
    slots: dict[int, Slot] = {}
    for names in kept:
        for name, tensor in names.items():
            if tensor is not None:
                slots.setdefault(id(tensor), (names, name))  # type: ignore[arg-type]  # not None
    return list(slots.values())
