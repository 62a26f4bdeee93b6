# SPDX-License-Identifier: Apache-2.0
"""Validate the best weights of a run now, and keep what they find as the run would have."""

import dataclasses
import sys
from typing import Any

from effdet import distributed
from effdet.anchors import build_anchors
from effdet.data import (
    CocoDataset,
    EvalTransform,
    SplitFiles,
    build_eval_loader,
    locate_split,
    read_split,
)
from effdet.errors import UsageError, printable
from effdet.evaluation import CocoEvaluator, GroundTruth, evaluate
from effdet.keepsakes import Keepsakes, Validation
from effdet.postprocess import Postprocess
from effdet.report.run import RunRecord
from effdet.settings import PostprocessConfig
from effdet.weights import load_detector, load_model

BEST_WEIGHTS = "best.pt"
BATCH_SIZE = 8


def evaluate_run(run: RunRecord, *, data: str | None = None, device: str | None = None) -> None:
    """Run ``best.pt`` over the validation images of a run, and keep the detections.

    Args:
        run: the run; its settings say how it was validated.
        data: the data folder (default: the run's).
        device: where to work (default: a GPU if there is one).

    Raises:
        WeightsError, DataError: for weights or data that are not there.
        UsageError: where the run's settings cannot be used.
    """
    where = distributed.pick_device(device)
    checkpoint = load_detector(run.folder / BEST_WEIGHTS)
    config, class_map = checkpoint.model_config, checkpoint.class_map
    files = validation_files(run, data)
    table = read_split(files, class_map)
    dataset = CocoDataset(
        table,
        files.images,
        class_map=class_map,
        follow_links=run.settings.get("follow_links") is True,
    )
    loader = build_eval_loader(
        dataset,
        EvalTransform(config.image_size, config.mean, config.std),
        batch_size=BATCH_SIZE,
        num_workers=distributed.num_workers(None),
        device=where,
        max_bad_images=1.0,
    )
    postprocess = Postprocess(
        anchors=build_anchors(config, device=where), config=_postprocess(run), class_map=class_map
    )
    model = load_model(checkpoint, run.folder / BEST_WEIGHTS).to(where)
    truth = GroundTruth.load(table)
    evaluator = CocoEvaluator(truth, class_map)
    metrics = evaluate(model, loader, postprocess, evaluator, device=where, progress=True)
    keepsakes = Keepsakes(run.folder, lambda text: print(printable(text), file=sys.stderr))
    keepsakes.hold(evaluator.results())
    epoch = checkpoint.metrics.get("epoch", 0)
    keepsakes.keep_best(
        Validation(epoch=epoch, figures=metrics.figures, dataset=dataset, truth=truth)
    )


def validation_files(run: RunRecord, data: str | None) -> SplitFiles:
    """The validation split of the run, in ``data`` where that is given.

    Raises:
        DataError: where it is not there.
    """
    settings = run.settings
    split = str(settings.get("val_split") or "val")
    if data is not None:
        return locate_split(data, split)
    annotations, images = (settings.get(name) for name in ("val_annotations", "val_images"))
    return locate_split(str(settings.get("data")), split, annotations, images)


def _postprocess(run: RunRecord) -> PostprocessConfig:
    names = {field.name for field in dataclasses.fields(PostprocessConfig)}
    values: dict[str, Any] = {k: v for k, v in run.settings.items() if k in names}
    try:
        return PostprocessConfig(**values)
    except TypeError as error:
        raise UsageError(f"{run.folder}/config.yaml: damaged settings of validation") from error
