# SPDX-License-Identifier: Apache-2.0
"""Samples of a data set, and what is done where an image cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from effdet.data.coco import CocoDataset
from effdet.data.sampler import Key
from effdet.data.transforms import ResizableTransform, Transform
from effdet.errors import DataError, UsageError
from effdet.structures import Target

# First words of the seeds, beside that of the order.
_SAMPLE = 2
_SUBSTITUTE = 3

NUM_SUBSTITUTES = 10
"""Other images that are tried in the place of a bad one; that all are bad is no accident."""

WhereBad = Literal["replace", "leave out"]


class Remark(NamedTuple):
    """What should be known of an image.

    Attributes:
        image: its index in the data set.
        text: a line that names its file.
        bad: whether it could not be used; else there is only more in it than was taken.
    """

    image: int
    text: str
    bad: bool


class Sample(NamedTuple):
    """One sample.

    Attributes:
        image: ``[3, H, W]`` float32.
        target: its boxes.
        remarks: on the images that were read for it.
    """

    image: Tensor
    target: Target
    remarks: tuple[Remark, ...] = ()


class LeftOut(NamedTuple):
    """In the place of a sample whose image is bad.

    Attributes:
        remarks: on that image.
    """

    remarks: tuple[Remark, ...]


class DetectionDataset(Dataset[Sample | LeftOut]):
    """Transformed samples of ``coco``, each a pure function of (seed, epoch, index).

    That holds for the substitute of a bad image as well: which it is depends on neither rank nor
    worker, nor on what was read before.
    """

    def __init__(
        self,
        coco: CocoDataset,
        transform: Transform,
        seed: int = 0,
        *,
        where_bad: WhereBad = "replace",
    ) -> None:
        """Make samples of ``coco``.

        Args:
            coco: the images and their boxes.
            transform: makes network input of them.
            seed: of what ``transform`` draws, and of the substitutes.
            where_bad: what becomes of an image that cannot be read or has another size than is
                recorded: another image of the set takes its place, or it is left out.
        """
        if seed < 0:
            raise UsageError(f"seed must be at least 0, got {seed}")
        self.coco, self.transform, self.seed = coco, transform, seed
        self.where_bad = where_bad

    def __len__(self) -> int:
        return len(self.coco)

    def __getitem__(self, key: Key) -> Sample | LeftOut:
        """The sample ``key``.

        Raises:
            DataError: where its image is bad and all that were tried in its place are so, too.
        """
        remarks: list[Remark] = []
        loaded = self._load(key.image, remarks)
        if loaded is None and self.where_bad == "leave out":
            return LeftOut(tuple(remarks))
        image, target = loaded or self._load_substitute(key, remarks)
        generator = np.random.default_rng([_SAMPLE, self.seed, key.epoch, key.image])
        transform = self.transform
        if key.size is not None:
            transform = cast(ResizableTransform, transform).resized(key.size)
        with _one_thread():
            return Sample(*transform(image, target, generator), tuple(remarks))

    def _load(self, index: int, remarks: list[Remark]) -> tuple[Tensor, Target] | None:
        """The image and its target; None where it is bad, which is remarked."""
        try:
            return self.coco.load(
                index, note=lambda text: remarks.append(Remark(index, text, bad=False))
            )
        except DataError as error:
            remarks.append(Remark(index, str(error), bad=True))
            return None

    def _load_substitute(self, key: Key, remarks: list[Remark]) -> tuple[Tensor, Target]:
        generator = np.random.default_rng([_SUBSTITUTE, self.seed, key.epoch, key.image])
        # Others than the bad one: so many steps behind it, around the end of the set.
        steps = generator.integers(1, max(len(self), 2), NUM_SUBSTITUTES).tolist()
        tried = list(dict.fromkeys((key.image + step) % len(self) for step in steps))
        for index in tried:
            if index != key.image and (loaded := self._load(index, remarks)) is not None:
                return loaded
        raise DataError(
            f"{remarks[0].text}; no other image can take its place: "
            f"{'; '.join(remark.text for remark in remarks[1:] if remark.bad) or 'there is none'}"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker: with more threads torch's resize rounds otherwise in the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
