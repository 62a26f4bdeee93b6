# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of everything a model has learnt."""

import copy
import operator
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from effdet.ops.ema import average_dtype, ema_update_

ALIGNMENT = 64  # bytes; what torch gives to tensors of their own

# A dictionary of a module (its parameters or buffers) and a name in it. The tensors are looked up
# again at every update, at a twentieth of the time of parameters() and buffers().
Slot = tuple[dict[str, Tensor], str]


class ModelEma:
    """A second model whose weights and batch-norm statistics follow those of the first.

    After update ``t`` (from 0) the average moves by ``1 - d`` towards the model with
    ``d = min(decay, (1 + t) / (10 + t))``, so that it forgets the random start quickly.

    The tensors of ``module`` keep names, shapes and strides, but lie one behind the other in one
    buffer a dtype, float32 for 16-bit weights, so that an update is one pass over memory. After
    ``module.to(...)`` the next update makes new buffers.

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
        self._followed: tuple[nn.Module, list[Slot]] | None = None
        self._count = torch.zeros(2, dtype=torch.int64)  # see effdet.ops.ema_update_
        self._flatten()

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
        if any(averages[i].data_ptr() != pointer for i, pointer in self._ends):
            averages = self._flatten()
        ema_update_(
            averages,
            self._values(model),
            self._count,
            decay=self.decay,
            found_inf=found_inf,
        )

    def _values(self, model: nn.Module) -> list[Tensor]:
        """The tensors of ``model`` in the order of the averages."""
        if self._followed is None or self._followed[0] is not model:
            slots = _slots(model)
            if len(slots) != len(self._order):
                raise ValueError(
                    f"model must have {len(self._order)} parameters and buffers as the average, "
                    f"got {len(slots)}"
                )
            self._followed = model, [slots[i] for i in self._order]
        return [names[name] for names, name in self._followed[1]]

    @torch.no_grad()
    def _flatten(self) -> list[Tensor]:
        """Move the tensors of ``module`` into one buffer a dtype and return them in its order."""
        slots = _slots(self.module)
        tensors = [names[name] for names, name in slots]
        devices = sorted({str(tensor.device) for tensor in tensors})
        if len(devices) > 1:
            raise ValueError(f"model must be on one device, got {', '.join(devices)}")
        self._order = sorted(range(len(slots)), key=lambda i: str(average_dtype(tensors[i])))
        self._slots = [slots[i] for i in self._order]
        self._followed = None
        averages = [tensors[i] for i in self._order]
        for dtype in dict.fromkeys(average_dtype(tensor) for tensor in averages):
            _join([tensor for tensor in averages if average_dtype(tensor) == dtype], dtype)
        # The ends tell whether the module moved; where a tensor between them was replaced, the
        # update is still right, only not in one launch.
        self._ends = [(i, averages[i].data_ptr()) for i in ((0, -1) if averages else ())]
        if averages:
            self._count = self._count.to(averages[0].device)
        return averages


def _slots(model: nn.Module) -> list[Slot]:
    """Where parameters and buffers are kept, each tensor once, in the order of the modules."""
    modules = list(model.modules())
    kept = [m._parameters for m in modules] + [m._buffers for m in modules]
    slots: dict[int, Slot] = {}
    for names in kept:
        for name, tensor in names.items():
            if tensor is not None:
                slots.setdefault(id(tensor), (names, name))  # type: ignore[arg-type]
    return list(slots.values())


def _join(tensors: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Let ``tensors``, which keep their strides, lie in one new buffer of ``dtype``."""
    step = ALIGNMENT // dtype.itemsize
    tensors = list(tensors)
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.numel() // step) * step
    buffer = torch.zeros(end, dtype=dtype, device=tensors[0].device)
    for tensor, start in zip(tensors, starts):
        strides = torch.empty_like(tensor, device="meta").stride()  # its own unless it has gaps
        view = buffer.as_strided(tensor.shape, strides, start)
        view.copy_(tensor)
        tensor.data = view
