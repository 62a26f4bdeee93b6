# SPDX-License-Identifier: Apache-2.0
"""The page of one run, or of several side by side."""

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from effdet.data.images import decode_image
from effdet.drawing import to_picture
from effdet.errors import DataError, EffdetError, one_line
from effdet.evaluation import spread_images, worst_images
from effdet.keepsakes import FOLDER, NUM_BATCHES, validated_images
from effdet.page import Page
from effdet.report import pictures
from effdet.report.data import add_labels
from effdet.report.evaluate import validation_files
from effdet.report.judged import Judged, judge, open_images
from effdet.report.overview import (
    FIGURE_HEADER,
    add_settings,
    add_summary,
    differing_settings,
    figure_row,
)
from effdet.report.run import DAMAGED, RunRecord, number, share
from effdet.report.training import training_figures
from effdet.report.validation import add_classes, add_confusion, add_curves, add_errors
from effdet.run_files import BEST
from effdet.scripts import script
from effdet.settings.report import ReportConfig

BATCH_SIDE = 1200


def build_page(run: RunRecord, config: ReportConfig) -> Page:
    """All there is to say of one run."""
    page = Page(run.name, f"Training of {run.setting('model')} on {run.setting('data')}")
    add_summary(page.section("Summary"), run)
    figures = training_figures([run])
    section = page.section("Training", "" if figures else "No step was logged.")
    section.figures(figures)
    _add_data(page, run)
    _add_validation(page, run, config)
    add_settings(page.section("Settings"), run)
    return page


def build_comparison(runs: Sequence[RunRecord], config: ReportConfig) -> Page:
    """Figures, settings that differ, and curves of several runs."""
    runs = _with_different_names(runs)
    page = Page(f"{len(runs)} runs", ", ".join(run.name for run in runs))
    section = page.section("Figures", "Each run at the epoch with its highest AP.")
    section.table(
        FIGURE_HEADER,
        [figure_row(run) for run in runs],
        numeric=range(1, 10),
        caption="A dash: not measured, or there is no box of that size.",
    )
    for run in runs:
        for note in run.notes:
            section.note(f"{run.name}: {note}")
    rows = differing_settings(runs)
    section = page.section("Settings that differ", "" if rows else "None does.")
    if rows:
        section.table(
            ["setting", *(run.name for run in runs)],
            rows,
            caption="A dash: the run had no such setting.",
        )
    page.section("Training").figures(training_figures(runs))
    _add_class_comparison(page, runs, config)
    return page


def _with_different_names(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs whose folders are called the same get the path as their name."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return list(runs)
    return [dataclasses.replace(run, name=str(run.folder)) for run in runs]


def _add_data(page: Page, run: RunRecord) -> None:
    if run.labels:
        section = page.section("Data")
        try:
            add_labels(section, run.labels)
        except DAMAGED as error:
            section.note(
                f"{FOLDER}/labels.json is damaged or of an earlier version ({one_line(error)})."
            )
    sheets = [(n, run.folder / FOLDER / f"batch-{n}.jpg") for n in range(1, NUM_BATCHES + 1)]
    found = [(picture, f"Batch {n}") for n, path in sheets if (picture := _picture(path))]
    if found:
        page.section(
            "First batches",
            "The first batches of the run as the model saw them, augmented and padded, with their "
            "boxes. Boxes that do not sit on their objects would be a fault of the data.",
        ).pictures(found, side=BATCH_SIDE)


def _picture(path: Path) -> Image.Image | None:
    try:
        return to_picture(decode_image(path))
    except DataError:
        return None


def _add_validation(page: Page, run: RunRecord, config: ReportConfig) -> None:
    try:
        judged = judge(run, config.score_threshold)
    except EffdetError as error:
        page.section("Validation").note(
            f"The kept detections cannot be used: {one_line(error)}. Make them anew with "
            "--evaluate."
        )
        return
    if judged is None:
        if run.best_epoch or not run.epochs:
            section = page.section("Validation")
            section.note("This run has kept no detections. To validate best.pt now:")
            section.command(f"effdet report {run.folder} --evaluate")
        return
    _add_figures(page, run, judged)
    if config.pictures:
        _add_pictures(page, run, judged, config)


def _add_figures(page: Page, run: RunRecord, judged: Judged) -> None:
    epoch = run.best.get("epoch")
    section = page.section(
        "Precision and recall",
        f"Of the {len(judged.table.image_ids):,} validation images, with the weights after epoch "
        f"{epoch}.",
    )
    highest = number(run.best_epoch.get("epoch"))
    if run.best_epoch and highest is None:
        section.note("metrics.csv does not say after which epoch the highest AP was measured.")
    elif highest is not None and highest != number(epoch):
        section.note(
            f"The kept detections are of epoch {epoch}; the highest AP was measured after epoch "
            f"{highest:.0f}. --evaluate makes those of best.pt."
        )
    add_curves(section, judged)
    add_classes(page.section("Classes"), judged)
    text = f"Of detections with a score of at least {share(judged.threshold)}"
    of_all = judged.best[None]
    if of_all is not None and of_all.threshold == judged.threshold:
        text += ", at which F1 over all classes is best"
    section = page.section("Errors", f"{text}; boxes are met at an IoU of 0.5.")
    add_errors(section, judged)
    add_confusion(page.section("Confusion matrix"), judged)


def _add_pictures(page: Page, run: RunRecord, judged: Judged, config: ReportConfig) -> None:
    section = page.section("Predictions", pictures.LEGEND)
    moved = None if config.data is None else validation_files(run, config.data).images
    dataset = open_images(run, judged, moved, section.note)
    if dataset is None:
        return
    ids = spread_images(judged.matching, dataset.image_ids.tolist(), config.pictures)
    section.pairs(pictures.pairs(judged, dataset, ids))
    worst = worst_images(judged.matching, config.pictures)
    if worst:
        section = page.section("Worst images", f"Most missed and false boxes. {pictures.LEGEND}")
        found = pictures.pairs(judged, dataset, [image.image_id for image in worst])
        section.pairs(found)


def _add_class_comparison(page: Page, runs: Sequence[RunRecord], config: ReportConfig) -> None:
    """AP of each class in every run that has kept detections."""
    found: dict[str, dict[str, float | None]] = {}
    for run in runs:
        try:
            judged = judge(run, config.score_threshold)
        except EffdetError:
            continue
        if judged is not None:
            found[run.name] = {curve.name: curve.ap["all"] for curve in judged.curves}
    classes = list(dict.fromkeys(name for values in found.values() for name in values))
    if len(found) > 1:
        page.section("AP of each class").table(
            ["class", *found],
            [[name, *(share(values.get(name)) for values in found.values())] for name in classes],
            numeric=range(1, len(found) + 1),
            caption="A dash: there is no box of the class.",
        )


def next_command(run: RunRecord, data: str | None = None) -> str:
    """What is done next with a run; ``data`` is the data folder where it is not the run's."""
    if not (run.folder / BEST).is_file():
        return shlex.join(["python", script("train.py"), "--resume", str(run.folder)])
    best = run.folder / BEST
    words = ["effdet", "export", str(best), "--format", "onnx"]
    if data is not None:  # else the export finds the images where they were
        with contextlib.suppress(EffdetError):
            images = validated_images(best, validation_files(run, data).images)
            words += ["--check-images", str(images[0].parent)] if images else []
    return shlex.join(words)
