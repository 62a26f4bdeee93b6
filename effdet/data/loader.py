# SPDX-License-Identifier: Apache-2.0
"""Which images come when, on which rank, in which batch; and the workers that prepare them.

Samplers hand out ``(epoch, index)`` pairs, and augmentation is drawn from (seed, epoch, index):
no rank and no worker has a state of its own, so the same seed gives the same samples for any
number of workers, and workers may live through all epochs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from effdet import distributed
from effdet.data.coco import CocoDataset
from effdet.data.transforms import Transform
from effdet.errors import DataError, UsageError
from effdet.structures import Batch, Target

Key = tuple[int, int]
"""``(epoch, index)`` of a sample."""

# First words of the seeds, so that the order of the images and what is drawn for each are
# independent of each other.
_ORDER, _SAMPLE = 1, 2


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Transformed samples of ``coco``, each a pure function of (seed, epoch, index)."""

    def __init__(self, coco: CocoDataset, transform: Transform, seed: int = 0) -> None:
        if seed < 0:
            raise UsageError(f"seed must be at least 0, got {seed}")
        self.coco, self.transform, self.seed = coco, transform, seed

    def __len__(self) -> int:
        return len(self.coco)

    def __getitem__(self, key: Key) -> tuple[Tensor, Target]:
        """Image ``[3, H, W]`` float32 and target of the sample ``(epoch, index)``.

        Raises:
            DataError: where its image cannot be read.
        """
        epoch, index = key
        image, target = self.coco.load(index)
        generator = np.random.default_rng([_SAMPLE, self.seed, epoch, index])
        with _one_thread():
            return self.transform(image, target, generator)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker: with more threads torch's resize rounds otherwise in the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TrainSampler(Sampler[list[Key]]):
    """Batches of one rank over a permutation that depends on seed and epoch alone.

    Global batch k is the k-th piece of ``batch_size * world_size`` images of the permutation, and
    every rank takes its part of it, so the optimizer sees the same global batches however many
    ranks share them. The last, partial global batch is left out.

    Attributes:
        num_dropped: images left out of an epoch (others in each).
    """

    def __init__(
        self, size: int, batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> None:
        """Cut ``size`` images into batches of ``batch_size`` a rank.

        Raises:
            UsageError: where not even one global batch can be filled.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        global_batch = batch_size * world_size
        if global_batch > size:
            raise UsageError(
                f"a batch of {batch_size} images on each of {world_size} processes is "
                f"{global_batch} images, but the training set has only {size}; use a batch size of "
                f"at most {size // world_size}" + (" or fewer processes" if world_size > 1 else "")
            )
        self.size, self.batch_size, self.global_batch = size, batch_size, global_batch
        self.rank, self.seed, self.epoch = rank, seed, 0
        self.num_dropped = size % global_batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation and the augmentation of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches an epoch, on every rank."""
        return self.size // self.global_batch

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([_ORDER, self.seed, self.epoch]).permutation(self.size)
        first = self.rank * self.batch_size
        for start in range(first, len(self) * self.global_batch, self.global_batch):
            yield [(self.epoch, int(i)) for i in order[start : start + self.batch_size]]


class EvalSampler(Sampler[list[Key]]):
    """Batches of one rank such that each image comes exactly once on exactly one rank.

    Rank r has the images r, r + world_size, ...; ranks may differ in length by one image.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        self.indices, self.batch_size = range(rank, size, world_size), batch_size

    def __len__(self) -> int:
        """Batches on this rank."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[start : start + self.batch_size]]


class Loader(DataLoader[Any]):
    """A data loader that gives :class:`~effdet.structures.Batch` objects.

    An image that cannot be read raises its one-line DataError here, in the main process.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for packed in super().__iter__():
            if isinstance(packed, DataError):
                raise packed
            yield packed.unpack()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next pass; nothing in evaluation."""
        if isinstance(self.batch_sampler, TrainSampler):
            self.batch_sampler.set_epoch(epoch)

    @property
    def num_dropped(self) -> int:
        """Images of the data set that an epoch leaves out."""
        sampler = self.batch_sampler
        return sampler.num_dropped if isinstance(sampler, TrainSampler) else 0


def build_train_loader(
    coco: CocoDataset,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    rank: int | None = None,
    world_size: int | None = None,
) -> Loader:
    """Shuffled, augmented batches; call ``set_epoch(epoch)`` before each pass.

    Args:
        coco: the images and their boxes.
        transform: augmentation, such as :class:`~effdet.data.transforms.TrainTransform`.
        batch_size: images a step on this rank.
        num_workers: processes that prepare samples; 0 prepares them in this one.
        seed: of order and augmentation.
        device: where the batches will go; memory is page-locked for a GPU.
        rank: of this process; by default as the process group says.
        world_size: number of processes; by default as the process group says.

    Raises:
        UsageError: where the global batch is larger than the data set.
    """
    rank, world_size = _ranks(rank, world_size)
    sampler = TrainSampler(len(coco), batch_size, rank, world_size, seed)
    return _build_loader(DetectionDataset(coco, transform, seed), sampler, num_workers, device)


def build_eval_loader(
    coco: CocoDataset,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    rank: int | None = None,
    world_size: int | None = None,
) -> Loader:
    """Every image once over all ranks, in order; arguments as :func:`build_train_loader`."""
    rank, world_size = _ranks(rank, world_size)
    sampler = EvalSampler(len(coco), batch_size, rank, world_size)
    return _build_loader(DetectionDataset(coco, transform), sampler, num_workers, device)


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    return (
        distributed.rank() if rank is None else rank,
        distributed.world_size() if world_size is None else world_size,
    )


def _build_loader(
    dataset: DetectionDataset,
    sampler: Sampler[list[Key]],
    num_workers: int,
    device: torch.device | str,
) -> Loader:
    if num_workers < 0:
        raise UsageError(f"workers must be at least 0, got {num_workers}")
    return Loader(
        _ErrorsAsValues(dataset),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.device(device).type == "cuda",
        persistent_workers=num_workers > 0,
    )


class _ErrorsAsValues(Dataset[Any]):
    """Hands a DataError over instead of raising it: torch would make a traceback text of it."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[Tensor, Target] | DataError:
        try:
            return self.dataset[key]
        except DataError as error:
            return error


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedBatch:
    """A batch as four tensors.

    A tensor costs a file descriptor on its way out of a worker, and a batch of 128 images with
    three tensors each would soon use up the usual 1,024 of a process.

    Attributes:
        images: ``[B, 3, H, W]`` float32.
        boxes: ``[sum of counts, 4]`` float32 xyxy, all images behind one another.
        labels: ``[sum of counts]`` int64.
        crowd: ``[sum of counts]`` bool.
        counts: boxes of each image.
        others: image id, scale and original size of each image.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    counts: list[int]
    others: list[tuple[int, float, tuple[int, int]]]

    def pin_memory(self) -> "PackedBatch":
        """The same in page-locked memory (called by the data loader)."""
        return PackedBatch(
            images=self.images.pin_memory(),
            boxes=self.boxes.pin_memory(),
            labels=self.labels.pin_memory(),
            crowd=self.crowd.pin_memory(),
            counts=self.counts,
            others=self.others,
        )

    def unpack(self) -> Batch:
        """The batch; its targets are views of the packed tensors."""
        parts = (torch.split(x, self.counts) for x in (self.boxes, self.labels, self.crowd))
        targets = [
            Target(boxes=boxes, labels=labels, crowd=crowd, image_id=id_, scale=scale, size=size)
            for boxes, labels, crowd, (id_, scale, size) in zip(*parts, self.others, strict=True)
        ]
        return Batch(images=self.images, targets=targets)


def collate(samples: Sequence[tuple[Tensor, Target] | DataError]) -> PackedBatch | DataError:
    """One batch of several samples, or the first error among them.

    The images come out in ``channels_last`` memory format, in which the transforms wrote them.
    """
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    images, targets = zip(*samples, strict=True)
    batch = torch.empty((len(images), *images[0].shape), memory_format=torch.channels_last)
    torch.stack(images, out=batch)
    return PackedBatch(
        images=batch,
        boxes=torch.cat([target.boxes for target in targets]),
        labels=torch.cat([target.labels for target in targets]),
        crowd=torch.cat([target.crowd for target in targets]),
        counts=[len(target.labels) for target in targets],
        others=[(target.image_id, target.scale, target.size) for target in targets],
    )
