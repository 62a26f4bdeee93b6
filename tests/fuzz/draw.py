# SPDX-License-Identifier: Apache-2.0
"""Draws arguments of operators: mostly right ones, in all dtypes and layouts, some spoilt."""

import contextlib
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
EXTREME_NUMBERS = (0, -1, 1, 2**31 - 1, 2**31, 2**62, -(2**62))
EXTREME_FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e300, float("inf"), float("-inf"), float("nan"))
WILD = (torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e-45, -0.0, 6e4, -1e5)


class Draw(random.Random):
    """Draws the arguments of one case.

    Attributes:
        comparable: whether the definition must give the same.
        wild: whether there are numbers that are not finite, or nearly not.
        refusable: whether an error is as good as a result.
    """

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        torch.manual_seed(self.getrandbits(48))
        self.comparable, self.wild, self.refusable = True, False, False

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def size(self, most: int, zero: float = 0.05) -> int:
        """A size up to ``most``, small ones more often; 0 with the given probability."""
        return 0 if self.chance(zero) else 1 + int((most - 1) * self.random() ** 3)

    def floats(self, shape: Sequence[int], dtype: torch.dtype, scale: float = 3.0) -> Tensor:
        """Normal numbers, sometimes with many equal or with extreme ones."""
        x = scale * torch.randn(tuple(shape))
        if self.chance(0.2):
            x = x.round()
        if self.chance(0.1) and x.numel():
            self.wild = True
            for _ in range(self.randint(1, 4)):
                x.view(-1)[self.randrange(x.numel())] = self.choice(WILD)
        return x.to(dtype)

    def layout(self, x: Tensor) -> Tensor:
        """The same values in other memory: other strides, gaps, an odd address."""
        kind = self.randrange(6)
        if kind == 0 and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        if kind == 1 and x.dim() > 1:
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == 2:
            return torch.stack((x, x), -1)[..., 0]
        if kind == 3:
            return torch.cat((x.new_ones(1), x.flatten()))[1:].view(x.shape)
        if kind == 4 and x.dim() and x.shape[-1] > 0:
            return x[..., :1].expand(x.shape)
        return x

    def level_shapes(self) -> list[tuple[int, int, int]]:
        """``(anchors, height, width)`` of each level."""
        anchors, side = self.choice((1, 3, 9)), self.size(12)
        shapes = []
        for _ in range(self.randint(1, 4)):
            shapes.append((anchors, side, self.size(9) if self.chance(0.3) else side))
            side = (side + 1) // 2
        return shapes

    def levels(
        self, batch: int, shapes: Sequence[tuple[int, int, int]], values: int, dtype: torch.dtype
    ) -> list[Tensor]:
        """The heads' outputs; contiguous, channels-last or, sometimes, anything else."""
        levels = []
        for anchors, height, width in shapes:
            x = self.floats((batch, anchors * values, height, width), dtype)
            last = self.chance(0.6)
            x = x.contiguous(memory_format=torch.channels_last) if last else x
            if self.chance(0.1):  # the public functions copy other layouts, the operators need not
                x, self.refusable = self.layout(x), True
            levels.append(x)
        return levels

    def boxes(self, *shape: int) -> Tensor:
        """``[..., 4]`` xyxy; some without area, some turned round, some equal."""
        corners = 60 * torch.rand(*shape, 2)
        sizes = 40 * torch.rand(*shape, 2) * (torch.rand(*shape, 2) > 0.1)
        boxes = torch.cat((corners, corners + sizes), -1)
        if self.chance(0.3):
            boxes = boxes.round()
        if self.chance(0.1):
            boxes = boxes.flip(-1)
        if self.chance(0.1) and boxes.numel():
            self.wild = True
            boxes.view(-1)[self.randrange(boxes.numel())] = self.choice(WILD)
        return self.layout(boxes)

    def spoilt(self, value: Any) -> Any:
        """One argument made wrong, or at least unusual."""
        if isinstance(value, Tensor):
            return self.spoilt_tensor(value)
        if isinstance(value, list) and value and self.chance(0.7):
            at = self.randrange(len(value))
            return [*value[:at], self.spoilt(value[at]), *value[at + 1 :]]
        if isinstance(value, list):
            return self.choice(([], value[1:], value + value))
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return self.choice(EXTREME_NUMBERS)
        if isinstance(value, float):
            return self.choice(EXTREME_FLOATS)
        return "other" if isinstance(value, str) else value

    def spoilt_tensor(self, x: Tensor) -> Tensor:
        kind = self.randrange(8)
        if kind == 0:
            return x.to(self.choice((*FLOATS, *INTEGERS)))
        if kind == 1:
            return x.unsqueeze(0)
        if kind == 2 and x.dim():
            return x.narrow(self.randrange(x.dim()), 0, 0)
        if kind == 3 and x.dim():
            dim = self.randrange(x.dim())
            return x.narrow(dim, 0, (x.shape[dim] + 1) // 2)
        if kind == 4 and x.dim() > 1:
            return x.transpose(0, -1)
        if kind == 5 and x.dim():
            return x.select(0, 0) if x.shape[0] else x
        if kind == 6:
            return x.to("meta")
        filler = self.choice(EXTREME_FLOATS if x.is_floating_point() else EXTREME_NUMBERS)
        with contextlib.suppress(RuntimeError):  # beyond the dtype
            return torch.full_like(x, filler)
        return x
