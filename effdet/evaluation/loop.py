# SPDX-License-Identifier: Apache-2.0
"""Run a model over a data set and collect what it finds."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from effdet import distributed
from effdet.bars import Bar
from effdet.evaluation.coco import CocoEvaluator, Metrics
from effdet.postprocess import Postprocessing
from effdet.precision import autocast
from effdet.structures import Batch


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    postprocess: Postprocessing,
    evaluator: CocoEvaluator,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    channels_last: bool = True,
    progress: bool = False,
    poll: Callable[[], None] | None = None,
    rounds: int | None = None,
) -> Metrics:
    """COCO figures of ``model``, the same on every process.

    Args:
        model: a detector; it is put into evaluation mode.
        batches: this process's images and targets; each image once over all processes.
        postprocess: the model's outputs and the targets to detections in original pixels.
        evaluator: a fresh one; afterwards the main process's holds all detections.
        device: where to work.
        dtype: mixed-precision type, None for full precision.
        channels_last: memory format of the images.
        progress: show a bar on stderr, on the main process.
        poll: called before each batch; what it raises ends the evaluation. With several processes
            it may be a collective: it is called ``rounds`` times on each.
        rounds: the largest number of batches of any process; this one's if None.

    Raises:
        ValueError: where there are more batches than ``rounds``.
    """
    model.eval()
    done = 0
    for batch in Bar(
        batches, "detecting", disable=None if progress and distributed.is_main() else True
    ):
        if done == rounds:
            raise ValueError(f"rounds must be the largest number of batches, got {rounds}")
        done += 1
        if poll is not None:
            poll()
        batch = batch.to(device, channels_last)
        with autocast(device, dtype):
            outputs = model(batch.images)
        found = postprocess(*outputs, batch.targets)
        for target, detections in zip(batch.targets, found, strict=True):
            evaluator.update(target.image_id, detections)
    if poll is not None:
        for _ in range(done, rounds or done):
            poll()
    evaluator.gather()
    metrics: Metrics = distributed.broadcast_from_main(
        evaluator.evaluate() if distributed.is_main() else None
    )
    return metrics
