# SPDX-License-Identifier: Apache-2.0
"""Run a model over a data set and collect what it finds."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from effdet import distributed
from effdet.evaluation.coco import CocoEvaluator, Metrics
from effdet.precision import autocast
from effdet.structures import Batch, Detections, Target

Postprocessing = Callable[[list[Tensor], list[Tensor], list[Target]], list[Detections]]


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
) -> Metrics:
    """COCO figures of ``model``, the same on every process.

    Args:
        model: a detector; it is put into evaluation mode.
        batches: this process's images and targets; each image once over all processes.
        postprocess: predictions and targets to detections in original pixels.
        evaluator: a fresh one; afterwards the main process's holds all detections.
        device: where to work.
        dtype: mixed-precision type, None for full precision.
        channels_last: memory format of the images.
        progress: show a bar on stderr, on the main process.
    """
    model.eval()
    for batch in tqdm(
        batches, "detecting", disable=None if progress and distributed.is_main() else True
    ):
        batch = batch.to(device, channels_last)
        with autocast(device, dtype):
            cls_logits, box_deltas = model(batch.images)
        found = postprocess(cls_logits, box_deltas, batch.targets)
        for target, detections in zip(batch.targets, found, strict=True):
            evaluator.update(target.image_id, detections)
    evaluator.gather()
    metrics: Metrics = distributed.broadcast_from_main(
        evaluator.evaluate() if distributed.is_main() else None
    )
    return metrics
