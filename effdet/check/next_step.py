# SPDX-License-Identifier: Apache-2.0
"""What to do after a check, as a person types it."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from effdet.check.findings import count_of
from effdet.check.report import CheckReport
from effdet.data.formats.split import training_split, validation_split
from effdet.scripts import script

VAL_SHARE, FEW_SHARE = "0.2", "0.5"
"""Part of the images that is proposed for validation, and that of 2 images."""


def next_command(report: CheckReport, options: Sequence[str]) -> str:
    """What to do next: mend, make the split that is missing, check the rest, or train.

    Args:
        report: what was found.
        options: of this check that training needs as well.
    """
    again = f"then: effdet check {shlex.quote(report.data)}"
    if count_of(report.findings, "error"):
        return f"mend the errors, {again}"
    train, val = training_split(report.split_names), validation_split(report.split_names)
    if train is None:
        return f"add a split train, {again}"
    if val is None:
        images = {split.name: split.images for split in report.splits}.get(train)
        if images == 1:
            return f"add images (there is 1; training and validation need one each), {again}"
        return shlex.join(_set_apart(report, FEW_SHARE if images == 2 else VAL_SHARE, options))
    if not {train, val} <= {split.name for split in report.splits}:
        words = ["effdet", "check", report.data]
        return shlex.join(words + ["--follow-links"] * ("--follow-links" in options))
    return shlex.join(_train(report, train, val, options))


def _set_apart(report: CheckReport, share: str, options: Sequence[str]) -> list[str]:
    """Of the same format where it can be written."""
    form = report.splits[0].format
    words = ["effdet", "convert-data", report.data, _beside(_folder(report.data))]
    words += ["--to", "coco" if form == "csv" else form, "--val-share", share]
    return words + ["--follow-links"] * ("--follow-links" in options)


def _train(report: CheckReport, train: str, val: str, options: Sequence[str]) -> list[str]:
    words = ["python", script("train.py"), "--data", report.data, "--preset", "finetune", *options]
    for option, name in (("train", train), ("val", val)):
        words += [f"--{option}-split", name] * (name != option)
    if report.anchors is not None and report.anchors.are_poor:
        assert report.anchors.better is not None
        words += ["--anchors", report.anchors.better.anchors]
        words += ["--partial-weights"] if "--partial-weights" not in words else []
    return [*words, "--output", f"runs/{_folder(report.data).resolve().name or 'mine'}"]


def _folder(data: str) -> Path:
    """The data folder, also where its ``data.yaml`` was given."""
    return Path(data).parent if Path(data).is_file() else Path(data)


def _beside(folder: Path) -> str:
    """A folder of another name beside ``folder``."""
    name = f"{folder.resolve().name or 'data'}-split"
    is_named = folder.name not in ("", "..")
    return os.path.normpath(folder.parent / name if is_named else folder / ".." / name)
