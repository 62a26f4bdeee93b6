# SPDX-License-Identifier: Apache-2.0
"""COCO figures of a model, or of a results file.

    python validate.py --data DIR --weights runs/mine/best.pt
    torchrun --nproc-per-node 8 validate.py --data DIR --weights runs/mine/best.pt
    python validate.py --annotations GT.json --predictions DT.json

``--json FILE`` writes the detections in COCO's results format, ``--metrics FILE`` the figures.
"""

import dataclasses
import sys
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from effdet import distributed, flags
from effdet.config import size_pair
from effdet.counts import counted
from effdet.data import (
    CocoDataset,
    EvalTransform,
    Loader,
    SplitFiles,
    build_eval_loader,
    locate_split,
    read_split,
)
from effdet.errors import DataError, printable, run
from effdet.evaluation import (
    CocoEvaluator,
    GroundTruth,
    Metrics,
    Results,
    evaluate,
    format_metrics,
    score_files,
    write_metrics,
    write_results,
)
from effdet.export import is_exported
from effdet.files import check_output
from effdet.inference import load
from effdet.names import say
from effdet.precision import autocast_dtype
from effdet.settings import ValidateConfig, select_postprocess
from effdet.training import report


def main() -> None:
    """Read the options, validate, print and write the figures."""
    config = flags.parse(
        ValidateConfig,
        sys.argv[1:],
        program="validate.py",
        description="COCO figures of a model on a data set, or of a results file.",
    )
    files = None if config.weights is None else locate(config)
    read = () if files is None else (files.annotations, files.images)
    inputs = (config.weights, config.predictions, config.annotations, *read)
    if config.json is not None:
        check_output(config.json, inputs)
    if config.metrics is not None:
        check_output(config.metrics, (*inputs, config.json))
    results = None
    if files is None:
        assert config.predictions is not None
        assert config.annotations is not None
        truth = GroundTruth.load(config.annotations, strict=config.strict_data)
        warn_of_gaps(truth)
        metrics = score_files(
            truth,
            config.predictions,
            config.evaluator,
            strict=config.strict_data,
            note=lambda line: print(line, file=sys.stderr),
        )
    else:
        device = distributed.pick_device(config.device)
        with distributed.process_group(device):
            metrics, results = validate(config, files, device)
            if not distributed.is_main():
                return
    say(format_metrics(metrics))
    if config.json is not None and results is not None:
        write_results(results, config.json)
    if config.metrics is not None:
        write_metrics(metrics, config.metrics)


def warn_of_gaps(truth: GroundTruth) -> None:
    """Say on stderr what the figures will not tell."""
    if not distributed.is_main():
        return
    name = printable(truth.name)
    if truth.num_left_out:
        print(
            f"{name}: {counted(truth.num_left_out, 'box', 'boxes')} of negative size left out",
            file=sys.stderr,
        )
    if not truth.annotations:
        print(f"{name}: there is no box to be found; all figures are empty", file=sys.stderr)


def locate(config: ValidateConfig) -> SplitFiles:
    """Where the split is."""
    return locate_split(config.data, config.split, config.annotations, config.images)


def validate(
    config: ValidateConfig, files: SplitFiles, device: torch.device
) -> tuple[Metrics, Results]:
    """Run the model over the split and score what it finds.

    Returns:
        The figures, the same on every process, and on the main one all detections.
    """
    assert config.weights is not None
    detector = load(
        config.weights,
        device=None if is_exported(config.weights) and config.device is None else str(device),
        use_ema=config.use_ema,
        image_size=None if config.image_size is None else size_pair(config.image_size),
        channels_last=config.channels_last,
        trust_code=config.trust_code,
    )
    model_config, class_map = detector.config, detector.class_map
    table = read_split(files, class_map, follow_links=config.follow_links)
    dataset = CocoDataset(
        table,
        files.images,
        class_map=class_map,
        strict=config.strict_data,
        follow_links=config.follow_links,
        max_pixels=config.max_pixels,
    )
    if distributed.is_main():
        say(f"{files.annotations}: {dataset.report}")
    truth = GroundTruth.load(table)
    warn_of_gaps(truth)
    loader = build_eval_loader(
        dataset,
        EvalTransform(model_config.image_size, model_config.mean, model_config.std),
        batch_size=config.batch_size,
        num_workers=distributed.num_workers(config.workers),
        device=device,
        max_bad_images=config.max_bad_images,
    )
    evaluator = CocoEvaluator(truth, class_map, config.evaluator)
    metrics = evaluate(
        detector.model,
        loader,
        detector.build_postprocess(**dataclasses.asdict(select_postprocess(config))),
        evaluator,
        device=device,
        dtype=autocast_dtype(device, config.amp, config.amp_dtype),
        channels_last=config.channels_last,
        progress=True,
    )
    if evaluator.num_left_out and distributed.is_main():
        print(
            f"{counted(evaluator.num_left_out, 'detection')} left out: the data has no such class"
        )
    return with_bad_images(metrics, loader, files.images), evaluator.results()


def with_bad_images(metrics: Metrics, loader: Loader, images: Path) -> Metrics:
    """The figures with the number of bad images, each of which the main process names.

    Raises:
        DataError: where all are bad: there is nothing to be judged.
    """
    bad = loader.record
    bad.share()
    if len(bad.bad) == metrics.images:
        raise DataError(f"{images}: not one image could be read")
    if distributed.is_main():
        for text in bad.news():
            print(f"warning: {text}", file=sys.stderr)
    return dataclasses.replace(metrics, bad_images=len(bad.bad))


if __name__ == "__main__":
    run(record(main), "validate.py", report)
