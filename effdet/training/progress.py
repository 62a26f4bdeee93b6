# SPDX-License-Identifier: Apache-2.0
"""Where a run is, and what a run must know to go on exactly from there."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from effdet.data.image_record import ImageRecord, merge
from effdet.training.meter import Meter


@dataclass(kw_only=True, eq=False)
class Progress:
    """Where a run is.

    Attributes:
        epoch: the epoch that is trained or to be trained, counted from 1.
        images: images of all processes that this epoch has used.
        meter: means of this epoch.
        best_ap: highest AP so far.
        stale: validations since then.
        validations: how many there were.
        records: of the images of each split, ``train`` and ``val``, that could not be used.
    """

    epoch: int = 1
    images: int = 0
    meter: Meter = field(default_factory=Meter)
    best_ap: float = float("-inf")
    stale: int = 0
    validations: int = 0
    records: dict[str, ImageRecord] = field(default_factory=dict)
    _ap_before: float = field(default=float("-inf"), init=False)

    def begin_epoch(self) -> None:
        """A fresh count, unless this epoch was begun before the program was started again."""
        if self.images == 0:
            self.meter = Meter()

    def end_epoch(self) -> None:
        """What is saved from now on continues with the next epoch."""
        self.epoch += 1
        self.images = 0

    def judge(self, ap: float | None) -> bool:
        """Count a validation with this AP; whether it is the best so far."""
        self.validations += 1
        # No AP at all (no boxes to find) is still better than no validation.
        value = -1.0 if ap is None else ap
        better = value > self.best_ap
        if better:
            self._ap_before = self.best_ap
        self.best_ap, self.stale = (value, 0) if better else (self.best_ap, self.stale + 1)
        return better

    def forget_best(self) -> None:
        """The best AP is again the one before: its weights could not be written."""
        self.best_ap = self._ap_before

    def bad_images(self) -> dict[str, dict[int, str]]:
        """The bad images of each split that this process knows of."""
        return {split: record.bad for split, record in self.records.items()}

    def restore_bad_images(self, parts: Sequence[Mapping[str, Mapping[int, str]]]) -> None:
        """Go on from what :meth:`bad_images` gave on each process."""
        for split, record in self.records.items():
            record.restore(merge(part.get(split, {}) for part in parts))

    def state_dict(self) -> dict[str, Any]:
        """Plain values, the same on all processes."""
        return {
            "epoch": self.epoch,
            "images": self.images,
            "best_ap": self.best_ap,
            "stale": self.stale,
            "validations": self.validations,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            ValueError: for a place where no run can be.
        """
        self.epoch, self.images = int(state["epoch"]), int(state["images"])
        if self.epoch < 1 or self.images < 0:
            raise ValueError(f"image {self.images} of epoch {self.epoch}")
        self.best_ap = float(state["best_ap"])
        self.stale, self.validations = int(state["stale"]), int(state["validations"])


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of this process's random generators, as tensors and plain values.

    Training draws from torch's alone; the others are for code of the user's.
    """
    version, words, gauss = random.getstate()
    numbers: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": [version, list(words), gauss],
        "numpy": {
            "key": torch.from_numpy(numbers["state"]["key"].astype(np.int64)),
            "pos": int(numbers["state"]["pos"]),
            "has_gauss": int(numbers["has_gauss"]),
            "gauss": float(numbers["gauss"]),
        },
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numbers = state["numpy"]
    key = numbers["key"].numpy().astype(np.uint32)
    if not 0 <= numbers["pos"] <= len(key):  # which numpy would read at unseen
        raise ValueError(f"position {numbers['pos']} of numpy's generator")
    np.random.set_state(  # noqa: NPY002 - the global one
        ("MT19937", key, numbers["pos"], numbers["has_gauss"], numbers["gauss"])
    )
