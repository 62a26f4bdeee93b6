# SPDX-License-Identifier: Apache-2.0
"""Validate the best weights of a run now, and keep what they find as the run would have."""

import dataclasses
import sys
from typing import Any

from effdet import distributed
from effdet.data import SplitFiles, locate_split
from effdet.errors import UsageError, printable
from effdet.inference import Detector
from effdet.inference.scoring import score_split
from effdet.keepsakes import Keepsakes, Validation
from effdet.report.run import RunRecord
from effdet.settings import PostprocessConfig
from effdet.weights import load_detector, load_model

BEST_WEIGHTS = "best.pt"


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
    weights = run.folder / BEST_WEIGHTS
    checkpoint = load_detector(weights)
    model = load_model(checkpoint, weights).to(distributed.pick_device(device))
    detector = Detector(model, checkpoint.model_config, checkpoint.class_map, _postprocess(run))
    score = score_split(
        detector,
        validation_files(run, data),
        follow_links=run.settings.get("follow_links") is True,
        max_bad_images=1.0,
        progress=True,
        note=_warn,
    )
    keepsakes = Keepsakes(run.folder, _warn)
    keepsakes.hold(score.results)
    keepsakes.keep_best(
        Validation(
            epoch=checkpoint.metrics.get("epoch", 0),
            figures=score.metrics.figures,
            dataset=score.dataset,
            truth=score.truth,
        )
    )


def _warn(text: str) -> None:
    print(printable(text), file=sys.stderr)


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
