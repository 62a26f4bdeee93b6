# SPDX-License-Identifier: Apache-2.0
"""The batches at which a run stopped, kept to be looked at and tried again."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from effdet import distributed
from effdet.errors import DivergedError, WeightsError
from effdet.files import write_atomically
from effdet.structures import Batch, Target
from effdet.weights.formats.torch_file import read_tensors

NAMED = 4
"""Images that an error names."""


def keep_batches(
    error: DivergedError, folder: Path, names_of: Callable[[list[int]], list[str]], **where: int
) -> DivergedError:
    """``error`` with the names of its images and the file of ``folder`` that keeps its batches.

    Args:
        error: with the batches of the last step.
        folder: the run folder; each process has its own file in it.
        names_of: image ids to file names.
        where: numbers such as epoch and step.
    """
    path = folder / f"diverged-rank{distributed.rank()}.pt"
    try:
        save_batches(path, error.batches, **where)
    except OSError as failure:
        return DivergedError(f"{error}; the batch could not be kept: {failure}")
    ids = [target.image_id for batch in error.batches for target in batch.targets]
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    names = ", ".join(names_of(ids[:NAMED]))
    return DivergedError(f"{error}; the last batch ({names}{more}) is kept in {path}")


def save_batches(path: Path, batches: Sequence[Batch], **where: int) -> None:
    """Write the batches of one step; ``where`` are numbers such as epoch and step.

    Raises:
        WriteError: where it cannot be written.
    """
    values = {
        "format": "effdet batches",
        **where,
        "batches": [
            {"images": batch.images.cpu(), "targets": [_to_dict(t) for t in batch.targets]}
            for batch in batches
        ],
    }
    write_atomically(path, lambda file: torch.save(values, file))


def load_batches(path: str | Path) -> list[Batch]:
    """The batches of a file that a stopped run has left, for ``Trainer.train_step``.

    Raises:
        WeightsError: for another file or a damaged one.
    """
    values = read_tensors(path)
    if not isinstance(values, dict) or values.get("format") != "effdet batches":
        raise WeightsError(f"{path}: expected batches that a stopped run has kept")
    try:
        return [
            Batch(images=batch["images"], targets=[_from_dict(t) for t in batch["targets"]])
            for batch in values["batches"]
        ]
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path}: batches with a missing or wrong entry ({error})") from error


def _to_dict(target: Target) -> dict[str, Any]:
    return {
        "boxes": target.boxes.cpu(),
        "labels": target.labels.cpu(),
        "crowd": target.crowd.cpu(),
        "image_id": target.image_id,
        "scale": target.scale,
        "size": list(target.size),
    }


def _from_dict(values: Mapping[str, Any]) -> Target:
    height, width = values["size"]
    return Target(**{**values, "size": (height, width)})
