# SPDX-License-Identifier: Apache-2.0
"""From samplers and images to batches.

Augmentation is drawn from (seed, epoch, index): no rank and no worker has a state of its own, so
the same seed gives the same samples for any number of workers, and workers may live through all
epochs.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from effdet import distributed
from effdet.data.coco import CocoDataset
from effdet.data.image_record import ImageRecord
from effdet.data.packing import collate
from effdet.data.sampler import EvalSampler, TrainSampler
from effdet.data.samples import DetectionDataset
from effdet.data.transforms import ResizableTransform, Size, Transform
from effdet.data.workers import (
    WatchedDataset,
    Workers,
    ending_signals_held,
    hold_back_deaths,
    start_worker,
)
from effdet.errors import DataError, UsageError
from effdet.structures import Batch


class Loader(DataLoader[Any]):
    """A data loader that gives :class:`~effdet.structures.Batch` objects.

    An image that cannot be used is replaced or left out, as the data set says, and stands in the
    record until there are too many. Whatever else goes wrong, in a worker or here, is a DataError
    of one line raised here: it names the image, also where a worker died or hangs at it. No torch
    generator but the loader's own is drawn from, so starting a pass changes nothing that a model
    draws.

    Attributes:
        record: the images that could not be used, of all batches given out so far.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        sampler: TrainSampler | EvalSampler,
        *,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
        timeout: float = 0.0,
        max_bad_images: float = 0.0,
    ) -> None:
        """Load the batches of ``sampler``; arguments as :func:`build_train_loader`."""
        if num_workers < 0:
            raise UsageError(f"workers must be at least 0, got {num_workers}")
        self._sampler = sampler
        self.record = ImageRecord(len(dataset), max_bad_images)
        self._workers = Workers(num_workers, dataset.coco.path) if num_workers else None
        slots = self._workers.slots if self._workers is not None else None
        super().__init__(
            WatchedDataset(dataset, dataset.coco.path, slots),
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=torch.device(device).type == "cuda",
            persistent_workers=num_workers > 0,
            timeout=timeout if num_workers else 0.0,
            worker_init_fn=start_worker,
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # not torch's batches
        batches = super().__iter__() if self._workers is None else self._start_pass(self._workers)
        while (packed := self._next(batches)) is not None:
            if isinstance(packed, DataError):
                raise packed
            self.record.add(packed.remarks)
            if packed.counts:
                yield packed.unpack()

    def _start_pass(self, workers: Workers) -> Iterator[Any]:
        if workers.processes:
            return workers.wait_for(super().__iter__, self.timeout)
        with ending_signals_held():
            batches = super().__iter__()
        processes: Any = batches  # torch types no attribute that leads to them
        workers.processes += processes._workers
        hold_back_deaths()
        return batches

    def _next(self, batches: Iterator[Any]) -> Any:
        if self._workers is None:
            return next(batches, None)
        return self._workers.wait_for(lambda: next(batches, None), self.timeout)

    def set_position(self, epoch: int, images: int = 0) -> None:
        """Choose the order and the augmentation of the next pass; nothing in evaluation.

        Args:
            epoch: that the pass belongs to.
            images: images of the epoch, of all ranks, that were used already.
        """
        if isinstance(self._sampler, TrainSampler):
            self._sampler.set_position(epoch, images)

    @property
    def rounds(self) -> int:
        """Batches on the rank that has most of them; in evaluation this one may have one less."""
        return len(self) if isinstance(self._sampler, TrainSampler) else self._sampler.rounds

    @property
    def num_dropped(self) -> int:
        """Images of the data set that the pass leaves out."""
        return self._sampler.num_dropped if isinstance(self._sampler, TrainSampler) else 0


def build_train_loader(
    coco: CocoDataset,
    transform: ResizableTransform,
    *,
    batch_size: int,
    accumulate: int = 1,
    sizes: Callable[[int, int], Size] | None = None,
    num_workers: int = 0,
    timeout: float = 0.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    max_bad_images: float = 0.0,
    rank: int | None = None,
    world_size: int | None = None,
) -> Loader:
    """Shuffled, augmented batches; call ``set_position(epoch)`` before each pass.

    Args:
        coco: the images and their boxes.
        transform: augmentation, such as :class:`~effdet.data.transforms.TrainTransform`.
        batch_size: images of a batch on this rank.
        accumulate: batches on each rank that make one optimizer step.
        sizes: gives the image size of a step from the epoch and the position of its first image
            in it, such as :class:`~effdet.data.sizes.ImageSizes`; None: always the transform's.
        num_workers: processes that prepare samples; 0 prepares them in this one.
        timeout: seconds to wait for the workers' next batch before it is an error; 0: no limit.
        seed: of order and augmentation.
        device: where the batches will go; memory is page-locked for a GPU.
        max_bad_images: share of the images, 0-1, that may be unreadable; others of the set take
            their places.
        rank: of this process; by default as the process group says.
        world_size: number of processes; by default as the process group says.

    Raises:
        UsageError: where the global batch is larger than the data set.
    """
    rank, world_size = _ranks(rank, world_size)
    sampler = TrainSampler(
        len(coco), batch_size, rank, world_size, accumulate=accumulate, seed=seed, sizes=sizes
    )
    return Loader(
        DetectionDataset(coco, transform, seed),
        sampler,
        num_workers=num_workers,
        device=device,
        timeout=timeout,
        max_bad_images=max_bad_images,
    )


def build_eval_loader(
    coco: CocoDataset,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int = 0,
    timeout: float = 0.0,
    device: torch.device | str = "cpu",
    max_bad_images: float = 0.0,
    rank: int | None = None,
    world_size: int | None = None,
) -> Loader:
    """Every image once over all ranks, in order; arguments as :func:`build_train_loader`.

    Images that cannot be read are left out, and a batch of none but such is not given.
    """
    rank, world_size = _ranks(rank, world_size)
    sampler = EvalSampler(len(coco), batch_size, rank, world_size)
    return Loader(
        DetectionDataset(coco, transform, where_bad="leave out"),
        sampler,
        num_workers=num_workers,
        device=device,
        timeout=timeout,
        max_bad_images=max_bad_images,
    )


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    return (
        distributed.rank() if rank is None else rank,
        distributed.world_size() if world_size is None else world_size,
    )
