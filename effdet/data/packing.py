# SPDX-License-Identifier: Apache-2.0
"""Batches on their way out of a worker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from effdet.data.samples import LeftOut, Remark, Sample
from effdet.data.workers import as_data_error
from effdet.errors import DataError
from effdet.structures import Batch, Target


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedBatch:
    """A batch as four tensors.

    A tensor costs a file descriptor on its way out of a worker, and a batch of 128 images with
    three tensors each would soon use up the usual 1,024 of a process.

    Attributes:
        images: ``[B, 3, H, W]`` float32; B is smaller by the images that were left out.
        boxes: ``[sum of counts, 4]`` float32 xyxy, all images behind one another.
        labels: ``[sum of counts]`` int64.
        crowd: ``[sum of counts]`` bool.
        counts: boxes of each image.
        others: image id, scale and original size of each image.
        remarks: on the images, those left out and those replaced included.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    counts: list[int]
    others: list[tuple[int, float, tuple[int, int]]]
    remarks: list[Remark]

    def pin_memory(self) -> "PackedBatch":
        """The same in page-locked memory (called by the data loader)."""
        return self._each(Tensor.pin_memory)

    def share_memory(self) -> "PackedBatch":
        """The same in memory that other processes can read."""
        return self._each(Tensor.share_memory_)

    def _each(self, move: Callable[[Tensor], Tensor]) -> "PackedBatch":
        return replace(
            self,
            images=move(self.images),
            boxes=move(self.boxes),
            labels=move(self.labels),
            crowd=move(self.crowd),
        )

    def unpack(self) -> Batch:
        """The batch; its targets are views of the packed tensors."""
        parts = (torch.split(x, self.counts) for x in (self.boxes, self.labels, self.crowd))
        targets = [
            Target(boxes=boxes, labels=labels, crowd=crowd, image_id=id_, scale=scale, size=size)
            for boxes, labels, crowd, (id_, scale, size) in zip(*parts, self.others, strict=True)
        ]
        return Batch(images=self.images, targets=targets)


def collate(samples: Sequence[Sample | LeftOut | DataError]) -> PackedBatch | DataError:
    """One batch of several samples, or the first error among them.

    A worker puts it into shared memory here, where a failure can be told: in torch's sending
    thread it would be lost and the main process would wait for ever.
    """
    made: list[Sample] = []
    remarks: list[Remark] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        remarks += sample.remarks
        if isinstance(sample, Sample):
            made.append(sample)
    failure = "cannot make a batch of them"
    try:
        batch = replace(pack(made), remarks=remarks)
        if get_worker_info() is None:
            return batch
        failure = "no shared memory for them (/dev/shm: enlarge it, or use fewer --workers)"
        return batch.share_memory()
    except Exception as error:
        ids = ", ".join(str(sample.target.image_id) for sample in made)
        return as_data_error(error, f"images with the ids {ids}", failure)


def pack(samples: Sequence[Sample]) -> PackedBatch:
    """One batch of several samples of one size; of none where there are none.

    The images come out in ``channels_last`` memory format, in which the transforms wrote them.
    """
    images = [sample.image for sample in samples]
    targets = [sample.target for sample in samples]
    shape = images[0].shape if images else (3, 1, 1)
    batch = torch.empty((len(images), *shape), memory_format=torch.channels_last)
    if images:
        torch.stack(images, out=batch)
    return PackedBatch(
        images=batch,
        boxes=torch.cat([torch.zeros(0, 4), *(target.boxes for target in targets)]),
        labels=torch.cat([_NO_LABELS, *(target.labels for target in targets)]),
        crowd=torch.cat([_NO_LABELS.bool(), *(target.crowd for target in targets)]),
        counts=[len(target.labels) for target in targets],
        others=[(target.image_id, target.scale, target.size) for target in targets],
        remarks=[],
    )


_NO_LABELS = torch.zeros(0, dtype=torch.int64)
