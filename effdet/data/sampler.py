# SPDX-License-Identifier: Apache-2.0
"""Which images come when, on which rank, in which batch.

What a sampler hands out depends on seed, epoch and position in the epoch alone: no rank has a
state of its own, and a run goes on anywhere, with any number of ranks.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from effdet.counts import counted
from effdet.data.transforms import Size
from effdet.errors import UsageError


class Key(NamedTuple):
    """What a data set needs to know to make one sample.

    Attributes:
        epoch: the augmentation is drawn from (seed, epoch, image).
        image: its index in the data set.
        size: ``(height, width)`` to make it in; None for the transform's own.
    """

    epoch: int
    image: int
    size: Size | None = None


# First word of the seeds, so that the order of the images and what is drawn for each are
# independent of each other.
_ORDER = 1


class TrainSampler(Sampler[list[Key]]):
    """Batches of one rank over a permutation that depends on seed and epoch alone.

    One optimizer step takes a global batch, ``batch_size * world_size * accumulate`` images. Step
    k has the k-th piece of that many images of the permutation; its first ``batch_size *
    world_size`` are the first batch of all ranks in rank order, the next as many their second
    batch, ``accumulate`` times. So the optimizer sees the same global batches however many ranks
    and batches share them. The last, partial global batch is left out.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        accumulate: int = 1,
        seed: int = 0,
        sizes: Callable[[int, int], Size] | None = None,
    ) -> None:
        """Cut ``size`` images into batches of ``batch_size`` a rank.

        Args:
            size: number of images.
            batch_size: images of one batch.
            rank: of this process.
            world_size: number of processes.
            accumulate: batches on each rank that make one step.
            seed: of the order.
            sizes: gives the image size of a step from the epoch and the position of its first
                image, such as :class:`~effdet.data.sizes.ImageSizes`.

        Raises:
            UsageError: where not even one global batch can be filled.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        if accumulate < 1:
            raise UsageError(f"accumulate must be at least 1, got {accumulate}")
        self.global_batch = batch_size * world_size * accumulate
        if self.global_batch > size:
            raise UsageError(_too_large(size, batch_size, world_size, accumulate))
        self.size, self.batch_size, self.accumulate = size, batch_size, accumulate
        self.rank, self.world_size, self.seed, self.sizes = rank, world_size, seed, sizes
        self.epoch = self.images = 0

    def set_position(self, epoch: int, images: int = 0) -> None:
        """Choose where the next pass starts.

        Args:
            epoch: of which the permutation and the augmentation are.
            images: images of the permutation, of all ranks, that were used already. Need not be a
                multiple of the global batch: it is not where the number of ranks has changed.

        Raises:
            UsageError: where the epoch has not as many images.
        """
        if not 0 <= images <= self.size:
            raise UsageError(
                f"an epoch of the training set has {self.size} images and cannot start after "
                f"{images}; is it the data set that the run began with?"
            )
        self.epoch, self.images = epoch, images

    @property
    def num_dropped(self) -> int:
        """Images that the pass leaves out at its end (others in each epoch)."""
        return (self.size - self.images) % self.global_batch

    def __len__(self) -> int:
        """Batches of the pass, equal on all ranks: ``accumulate`` for each step."""
        return (self.size - self.images) // self.global_batch * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        # The position is read here and not with the first batch.
        return self._batches(self.epoch, range(self.images, self.size - self.num_dropped))

    def _batches(self, epoch: int, positions: range) -> Iterator[list[Key]]:
        order = np.random.default_rng([_ORDER, self.seed, epoch]).permutation(self.size)
        for first in positions[:: self.global_batch]:
            size = self.sizes(epoch, first) if self.sizes is not None else None
            for batch in range(self.accumulate):
                start = first + (batch * self.world_size + self.rank) * self.batch_size
                indices = order[start : start + self.batch_size]
                yield [Key(epoch, int(index), size) for index in indices]


def _too_large(size: int, batch_size: int, world_size: int, accumulate: int) -> str:
    passes = f" in {accumulate} passes" if accumulate > 1 else ""
    others = [
        "fewer processes" if world_size > 1 else "",
        "a smaller --accumulate" if accumulate > 1 else "",
    ]
    largest = size // (world_size * accumulate)
    ways = [f"a batch size of at most {largest}" if largest else "", *others]
    return (
        f"a batch of {counted(batch_size, 'image')} on each of "
        f"{counted(world_size, 'process', 'processes')}{passes} is "
        f"{counted(batch_size * world_size * accumulate, 'image')}, but the training set has "
        f"only {size}; use {' or '.join(way for way in ways if way) or 'a larger set'}"
    )


class EvalSampler(Sampler[list[Key]]):
    """Batches of one rank such that each image comes exactly once on exactly one rank.

    Rank r has the images r, r + world_size, ...; ranks may differ in length by one image.

    Attributes:
        rounds: batches on the rank that has most of them; this one may have one less.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        self.indices, self.batch_size = range(rank, size, world_size), batch_size
        self.rounds = -(-len(range(0, size, world_size)) // batch_size)

    def __len__(self) -> int:
        """Batches on this rank."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [Key(0, index) for index in self.indices[start : start + self.batch_size]]
