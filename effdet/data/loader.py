# SPDX-License-Identifier: Apache-2.0
"""From samplers and images to batches.

Augmentation is drawn from (seed, epoch, index): no rank and no worker has a state of its own, so
the same seed gives the same samples for any number of workers, and workers may live through all
epochs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from effdet import distributed
from effdet.data.coco import CocoDataset
from effdet.data.sampler import EvalSampler, Key, TrainSampler
from effdet.data.transforms import ResizableTransform, Size, Transform
from effdet.data.workers import (
    WatchedDataset,
    Workers,
    as_data_error,
    ending_signals_held,
    hold_back_deaths,
    start_worker,
)
from effdet.errors import DataError, UsageError
from effdet.structures import Batch, Target

_SAMPLE = 2  # first word of the seeds, beside that of the order


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Transformed samples of ``coco``, each a pure function of (seed, epoch, index)."""

    def __init__(self, coco: CocoDataset, transform: Transform, seed: int = 0) -> None:
        if seed < 0:
            raise UsageError(f"seed must be at least 0, got {seed}")
        self.coco, self.transform, self.seed = coco, transform, seed

    def __len__(self) -> int:
        return len(self.coco)

    def __getitem__(self, key: Key) -> tuple[Tensor, Target]:
        """Image ``[3, H, W]`` float32 and target of the sample ``key``.

        Raises:
            DataError: where its image cannot be read.
        """
        epoch, index, size = key
        image, target = self.coco.load(index)
        generator = np.random.default_rng([_SAMPLE, self.seed, epoch, index])
        transform = self.transform
        if size is not None:
            transform = cast(ResizableTransform, transform).resized(size)
        with _one_thread():
            return transform(image, target, generator)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker: with more threads torch's resize rounds otherwise in the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Loader(DataLoader[Any]):
    """A data loader that gives :class:`~effdet.structures.Batch` objects.

    Whatever goes wrong with an image, in a worker or here, is a DataError of one line raised here:
    it names the image, also where a worker died or hangs at it. No torch generator but the
    loader's own is drawn from, so starting a pass changes nothing that a model draws.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        sampler: TrainSampler | EvalSampler,
        *,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
        timeout: float = 0.0,
    ) -> None:
        """Load the batches of ``sampler``; arguments as :func:`build_train_loader`."""
        if num_workers < 0:
            raise UsageError(f"workers must be at least 0, got {num_workers}")
        self._sampler = sampler
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

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__() if self._workers is None else self._start_pass(self._workers)
        while (packed := self._next(batches)) is not None:
            if isinstance(packed, DataError):
                raise packed
            yield packed.unpack()

    def _start_pass(self, workers: Workers) -> Iterator[Any]:
        if workers.processes:
            return workers.wait_for(super().__iter__, self.timeout)
        with ending_signals_held():
            batches = super().__iter__()
        # The one attribute that leads from a loader to its processes.
        workers.processes += batches._workers  # type: ignore[attr-defined]
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
        rank: of this process; by default as the process group says.
        world_size: number of processes; by default as the process group says.

    Raises:
        UsageError: where the global batch is larger than the data set.
    """
    rank, world_size = _ranks(rank, world_size)
    sampler = TrainSampler(
        len(coco), batch_size, rank, world_size, accumulate=accumulate, seed=seed, sizes=sizes
    )
    dataset = DetectionDataset(coco, transform, seed)
    return Loader(dataset, sampler, num_workers=num_workers, device=device, timeout=timeout)


def build_eval_loader(
    coco: CocoDataset,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int = 0,
    timeout: float = 0.0,
    device: torch.device | str = "cpu",
    rank: int | None = None,
    world_size: int | None = None,
) -> Loader:
    """Every image once over all ranks, in order; arguments as :func:`build_train_loader`."""
    rank, world_size = _ranks(rank, world_size)
    sampler = EvalSampler(len(coco), batch_size, rank, world_size)
    dataset = DetectionDataset(coco, transform)
    return Loader(dataset, sampler, num_workers=num_workers, device=device, timeout=timeout)


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    return (
        distributed.rank() if rank is None else rank,
        distributed.world_size() if world_size is None else world_size,
    )


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
        return self._each(Tensor.pin_memory)

    def share_memory(self) -> "PackedBatch":
        """The same in memory that other processes can read."""
        return self._each(Tensor.share_memory_)

    def _each(self, move: Callable[[Tensor], Tensor]) -> "PackedBatch":
        return PackedBatch(
            images=move(self.images),
            boxes=move(self.boxes),
            labels=move(self.labels),
            crowd=move(self.crowd),
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

    A worker puts it into shared memory here, where a failure can be told: in torch's sending
    thread it would be lost and the main process would wait for ever.
    """
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    good = cast(Sequence[tuple[Tensor, Target]], samples)
    failure = "cannot make a batch of them"
    try:
        batch = pack(good)
        if get_worker_info() is None:
            return batch
        failure = "no shared memory for them (/dev/shm: enlarge it, or use fewer --workers)"
        return batch.share_memory()
    except Exception as error:
        ids = ", ".join(str(target.image_id) for _, target in good)
        return as_data_error(error, f"images with the ids {ids}", failure)


def pack(samples: Sequence[tuple[Tensor, Target]]) -> PackedBatch:
    """One batch of several samples of one size.

    The images come out in ``channels_last`` memory format, in which the transforms wrote them.
    """
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
