# SPDX-License-Identifier: Apache-2.0
"""Means over steps, kept on the device until somebody reads them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from effdet import distributed


class Meter:
    """Means over the steps of an epoch and over those since the last report.

    Steps that were skipped count for nothing but their number.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._names: list[str] = []
        self._sums: Tensor | None = None  # float64: the values, then the steps taken
        self._reported = [0.0, 0.0, 0.0, 0.0]  # steps, images, seconds, seconds of waiting
        self._reported_sums: list[float] = []
        self.steps = self.images = 0
        self.waiting = 0.0
        self._start = clock()

    @property
    def seconds(self) -> float:
        """Time since the epoch began, without breaks between starts of the program."""
        return self.clock() - self._start

    def add(
        self, values: Mapping[str, Tensor], skipped: Tensor, images: int, waiting: float
    ) -> None:
        """Count one step.

        Args:
            values: scalars on the device.
            skipped: whether it was skipped, a scalar on the device.
            images: of this process.
            waiting: seconds without data.
        """
        row = torch.stack([*values.values(), torch.ones_like(skipped, dtype=torch.float32)])
        row = torch.where(skipped, 0.0, row.double())
        if self._sums is None:
            self._names, self._sums = list(values), row
        else:
            self._sums += row
        self.steps += 1
        self.images += images
        self.waiting += waiting

    def report(self) -> dict[str, float]:
        """Means since the last report, over all processes; waits for the device."""
        sums, counts = self._total(), self._counts()
        before = self._reported_sums or [0.0] * len(sums)
        means = self._means(
            [a - b for a, b in zip(sums, before, strict=True)],
            [a - b for a, b in zip(counts, self._reported, strict=True)],
        )
        self._reported_sums, self._reported = sums, counts
        return means

    def means(self) -> dict[str, float]:
        """Means over the epoch and all processes, nothing before the first step."""
        return self._means(self._total(), self._counts())

    def state_dict(self) -> dict[str, Any]:
        """What this process has counted, as plain values."""
        return {
            "names": list(self._names),
            "sums": [] if self._sums is None else self._sums.tolist(),
            "reported_sums": list(self._reported_sums),
            "reported": list(self._reported),
            "counts": self._counts(),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._names = list(state["names"])
        self._sums = None
        if self._names:
            self._sums = torch.tensor(state["sums"], dtype=torch.float64, device=device)
        self._reported_sums = list(state["reported_sums"])
        self._reported = list(state["reported"])
        steps, images, seconds, self.waiting = state["counts"]
        self.steps, self.images = int(steps), int(images)
        self._start = self.clock() - seconds

    def _counts(self) -> list[float]:
        return [float(self.steps), float(self.images), self.seconds, self.waiting]

    def _total(self) -> list[float]:
        """The sums of all processes."""
        if self._sums is None:
            return []
        sums: list[float] = distributed.all_reduce_sum(self._sums).tolist()
        return sums

    def _means(self, sums: list[float], counts: list[float]) -> dict[str, float]:
        steps, images, seconds, waiting = counts
        if not sums or steps == 0:
            return {}
        *values, taken = sums
        world = distributed.world_size()
        means = {
            name: value / taken if taken else float("nan")
            for name, value in zip(self._names, values, strict=True)
        }
        return means | {
            "skipped": steps - taken / world,
            "images_per_second": images * world / seconds,
            "data_share": waiting / seconds,
        }
