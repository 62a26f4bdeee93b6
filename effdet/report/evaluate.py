# SPDX-License-Identifier: Apache-2.0
"""Validate the best weights of a run now, and keep what they find as the run would have."""

import dataclasses

from effdet import distributed, flags
from effdet.data import SplitFiles, locate_split
from effdet.inference import Detector
from effdet.inference.scoring import score_split
from effdet.keepsakes import Keepsakes, Validation
from effdet.names import tell
from effdet.report.run import RunRecord
from effdet.run_files import BEST, CONFIG
from effdet.settings import DataConfig, PostprocessConfig, TrainConfig, select_postprocess
from effdet.weights import load_detector, load_model


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
    weights = run.folder / BEST
    checkpoint = load_detector(weights)
    model = load_model(checkpoint, weights).to(distributed.pick_device(device))
    config = _settings(run)
    postprocess = select_postprocess(config)
    detector = Detector(model, checkpoint.model_config, checkpoint.class_map, postprocess)
    score = score_split(
        detector,
        validation_files(run, data),
        strict=config.strict_data,
        follow_links=config.follow_links,
        max_pixels=config.max_pixels,
        max_bad_images=config.max_bad_images,
        evaluator=config.evaluator,
        progress=True,
        note=tell,
    )
    keepsakes = Keepsakes(run.folder, tell)
    keepsakes.hold(score.results)
    keepsakes.keep_best(
        Validation(
            epoch=checkpoint.metrics.get("epoch", 0),
            figures=score.metrics.figures,
            dataset=score.dataset,
            truth=score.truth,
        )
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


def _settings(run: RunRecord) -> TrainConfig:
    """What the run said of its validations; the rest of its settings is not looked at.

    Raises:
        UsageError: for what cannot be.
    """
    bases = (DataConfig, PostprocessConfig)
    names = {"evaluator", *(field.name for base in bases for field in dataclasses.fields(base))}
    values = {name: value for name, value in run.settings.items() if name in names}
    source = run.folder / CONFIG
    return TrainConfig(**flags.checked_values(TrainConfig, values, source))
