# SPDX-License-Identifier: Apache-2.0
"""COCO figures of a model, or of a results file.

    python validate.py --data DIR --weights runs/mine/best.pt
    torchrun --nproc-per-node 8 validate.py --data DIR --weights runs/mine/best.pt
    python validate.py --annotations GT.json --predictions DT.json

``--json FILE`` writes the detections in COCO's results format, ``--metrics FILE`` the figures.
"""

import sys

import torch

from effdet import distributed, flags
from effdet.config import size_pair
from effdet.data import SplitFiles, locate_split
from effdet.errors import UsageError, run
from effdet.evaluation import (
    GroundTruth,
    Metrics,
    Results,
    format_metrics,
    score_files,
    write_metrics,
    write_results,
)
from effdet.export import is_exported
from effdet.export.kinds import refuse_trust
from effdet.files import check_output
from effdet.inference import ExportedDetector, load
from effdet.inference.scoring import gaps, score_split
from effdet.names import say, tell
from effdet.precision import autocast_dtype
from effdet.settings import PostprocessConfig, ValidateConfig, asked_postprocess
from effdet.training import report_to_launcher, with_errors_for_launcher


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
    if files is None:
        _write(config, score_results_file(config))
        return
    device = distributed.pick_device(config.device)
    with distributed.process_group(device):
        metrics, results = score_weights(config, files, device)
        if distributed.is_main():
            _write(config, metrics, results)


def _write(config: ValidateConfig, metrics: Metrics, results: Results | None = None) -> None:
    """Print the figures, and write what is wanted."""
    say(format_metrics(metrics))
    if config.json is not None and results is not None:
        write_results(results, config.json)
    if config.metrics is not None:
        write_metrics(metrics, config.metrics)


def locate(config: ValidateConfig) -> SplitFiles:
    """Where the split is."""
    return locate_split(config.data, config.split, config.annotations, config.images)


def score_results_file(config: ValidateConfig) -> Metrics:
    """The figures of the detections in a file."""
    assert config.predictions is not None
    assert config.annotations is not None
    truth = GroundTruth.load(config.annotations, strict=config.strict_data)
    for text in gaps(truth):
        tell(text)
    return score_files(
        truth, config.predictions, config.evaluator, strict=config.strict_data, note=tell
    )


def score_weights(
    config: ValidateConfig, files: SplitFiles, device: torch.device
) -> tuple[Metrics, Results]:
    """Run the model over the split and score what it finds.

    Returns:
        The figures, the same on every process, and on the main one all detections.
    """
    assert config.weights is not None
    refuse_trust([config.weights], config.trust_code)
    exported = is_exported(config.weights)
    if exported and config.amp:
        raise UsageError(f"{config.weights}: --amp does nothing to an exported file; leave it out")
    detector = load(
        config.weights,
        device=None if exported and config.device is None else str(device),
        use_ema=config.use_ema,
        image_size=None if config.image_size is None else size_pair(config.image_size),
        channels_last=config.channels_last,
        trust_code=config.trust_code,
        postprocess=PostprocessConfig(),
    )
    if isinstance(detector, ExportedDetector) and detector.inside and distributed.is_main():
        tell(f"{config.weights}: its own post-processing is used: {detector.inside}")
    score = score_split(
        detector,
        files,
        asked=asked_postprocess(config),
        batch_size=config.batch_size,
        workers=config.workers,
        strict=config.strict_data,
        follow_links=config.follow_links,
        max_pixels=config.max_pixels,
        max_bad_images=config.max_bad_images,
        evaluator=config.evaluator,
        dtype=autocast_dtype(detector.device, config.amp, config.amp_dtype),
        progress=True,
        note=tell,
    )
    return score.metrics, score.results


if __name__ == "__main__":
    run(with_errors_for_launcher(main), "validate.py", report_to_launcher)
