# SPDX-License-Identifier: Apache-2.0
"""COCO figures of a model, or of a results file.

    python validate.py --data DIR --weights runs/mine/best.pt
    torchrun --nproc-per-node 8 validate.py --data DIR --weights runs/mine/best.pt
    python validate.py --annotations GT.json --predictions DT.json

``--json FILE`` writes the detections in COCO's results format, ``--metrics FILE`` the figures.
"""

import dataclasses
import sys

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from effdet import distributed, flags
from effdet.anchors import build_anchors
from effdet.config import size_pair
from effdet.data import CocoDataset, EvalTransform, build_eval_loader, locate_split
from effdet.errors import run
from effdet.evaluation import (
    CocoEvaluator,
    Metrics,
    check_output,
    evaluate,
    format_metrics,
    score_files,
    write_metrics,
    write_results,
)
from effdet.postprocess import Postprocess
from effdet.precision import autocast_dtype
from effdet.settings import ValidateConfig, select_postprocess
from effdet.training import report
from effdet.weights import load_detector, load_model


def main() -> None:
    """Read the options, validate, print and write the figures."""
    config = flags.parse(
        ValidateConfig,
        sys.argv[1:],
        program="validate.py",
        description="COCO figures of a model on a data set, or of a results file.",
    )
    inputs = (config.weights, config.predictions, config.annotations)
    if config.json is not None:
        check_output(config.json, inputs)
    if config.metrics is not None:
        check_output(config.metrics, (*inputs, config.json))
    if config.predictions is not None:
        assert config.annotations is not None
        metrics = score_files(config.annotations, config.predictions, config.evaluator)
    else:
        device = distributed.pick_device(config.device)
        with distributed.process_group(device):
            metrics = validate(config, device)
            if not distributed.is_main():
                return
    print(format_metrics(metrics))
    if config.metrics is not None:
        write_metrics(metrics, config.metrics)


def validate(config: ValidateConfig, device: torch.device) -> Metrics:
    """Run the model over the split and score what it finds; the same on every process."""
    assert config.weights is not None
    checkpoint = load_detector(config.weights, use_ema=config.use_ema)
    model_config, class_map = checkpoint.model_config, checkpoint.class_map
    if config.image_size is not None:
        model_config = dataclasses.replace(model_config, image_size=size_pair(config.image_size))
    files = locate_split(config.data, config.split, config.annotations, config.images)
    dataset = CocoDataset(*files, class_map=class_map)
    if distributed.is_main():
        print(f"{files[0]}: {dataset.report}")
    loader = build_eval_loader(
        dataset,
        EvalTransform(model_config.image_size, model_config.mean, model_config.std),
        batch_size=config.batch_size,
        num_workers=distributed.num_workers(config.workers),
        device=device,
    )
    model = load_model(
        checkpoint,
        config.weights,
        use_ema=config.use_ema,
        channels_last=config.channels_last,
    ).to(device)
    evaluator = CocoEvaluator(dataset.annotations, class_map, config.evaluator)
    metrics = evaluate(
        model,
        loader,
        Postprocess(
            anchors=build_anchors(model_config, device=device),
            config=select_postprocess(config),
            class_map=class_map,
        ),
        evaluator,
        device=device,
        dtype=autocast_dtype(device, config.amp, config.amp_dtype),
        channels_last=config.channels_last,
        progress=True,
    )
    if evaluator.num_left_out and distributed.is_main():
        print(f"{evaluator.num_left_out} detections left out: the data has no such class")
    if config.json is not None and distributed.is_main():
        write_results(evaluator.results(), config.json)
    return metrics


if __name__ == "__main__":
    run(record(main), "validate.py", report)
