# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: made once, and always with a good checkpoint after the first save.

``last.pt`` to continue from, ``previous.pt`` the one before, ``best.pt`` to use, and
``epoch-0010.pt`` and so on, where they are wanted.
"""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path

from effdet.errors import WeightsError
from effdet.files import keep_old, new_folder
from effdet.names import file_name
from effdet.run_files import BEST, LAST, PREVIOUS
from effdet.weights import Checkpoint, load_checkpoint, save_checkpoint
from effdet.weights.checkpoint import peek_step


def create_run_folder(output: str | None, name: str) -> Path:
    """Make the folder of a new run: ``output``, or the next free ``runs/NAME-N``.

    Raises:
        UsageError: where ``output`` holds something already.
    """
    if output is None:
        return _next_free(name)
    resumable = bool(_candidates(Path(output)))
    advice = f"continue that run with --resume {output}" if resumable else "nothing was saved there"
    return new_folder(output, f"name another folder ({advice})")


def resume_path(resume: str) -> Path:
    """The file that ``--resume`` means: itself, or the last checkpoint of a run folder."""
    return Path(resume) / LAST if _is_folder(resume) else Path(resume)


def _is_folder(resume: str) -> bool:
    with contextlib.suppress(OSError):  # a name that no file can have
        return Path(resume).is_dir()
    return False


def load_resumed(resume: str, warn: Callable[[str], None]) -> tuple[Path, Checkpoint]:
    """The checkpoint that ``--resume`` means, and its file: of a run folder the newest good one.

    Args:
        resume: a checkpoint or a run folder.
        warn: takes a line about each newer one that cannot be used.

    Raises:
        WeightsError: where there is none, or none to continue from.
    """
    found = newest_checkpoint(Path(resume), warn) if _is_folder(resume) else None
    path, checkpoint = found or (resume_path(resume), load_checkpoint(resume_path(resume)))
    if not checkpoint.training:
        raise WeightsError(
            f"--resume {path}: holds weights only; continue from {path.parent / LAST}, or start a "
            f"new run with --weights {path}"
        )
    if not isinstance(checkpoint.training.get("config"), dict):
        raise WeightsError(f"--resume {path}: damaged training state (no settings of the run)")
    return path, checkpoint


def has_checkpoints(folder: Path) -> bool:
    """Whether ``folder`` holds files that a run saves to go on from."""
    return bool(_candidates(folder))


def save_best(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``best.pt``, without training state.

    Raises:
        WriteError, DivergedError, TypeError: as :func:`save_checkpoint`; the old one stays.
    """
    save_checkpoint(dataclasses.replace(checkpoint, training={}), folder / BEST)


def save_last(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``last.pt``; the one before becomes ``previous.pt`` as soon as the new one is safe.

    Killed at any point, or without power, the folder holds a good checkpoint that is at least as
    new as the last completed save. At most three files of this size exist at a time.

    Raises:
        WriteError, DivergedError, TypeError: as :func:`save_checkpoint`; both files stay.
    """
    with keep_old(folder / LAST, folder / PREVIOUS):
        save_checkpoint(checkpoint, folder / LAST)


def save_epoch(folder: Path, checkpoint: Checkpoint, epoch: int, keep: int) -> None:
    """Write ``epoch-0010.pt``, then delete all but the newest ``keep`` of its kind (0: none).

    Raises:
        WriteError, DivergedError, TypeError: as :func:`save_checkpoint`; nothing is deleted.
    """
    save_checkpoint(checkpoint, folder / f"epoch-{epoch:04d}.pt")
    for path in _epoch_files(folder)[keep:] if keep else []:
        with contextlib.suppress(OSError):  # a file too many is no reason to end a run
            path.unlink()


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> tuple[Path, Checkpoint] | None:
    """The checkpoint to continue a run from: the newest that is whole and has training state.

    ``last.pt`` comes first, also where it has fewer steps than others: the run may have gone back
    to one of its ``epoch-N.pt`` on purpose.

    Args:
        folder: the run folder.
        warn: takes a line about each newer one that cannot be used.

    Returns:
        The file and what is in it, or None where nothing was saved yet.

    Raises:
        WeightsError: where there are checkpoints and none can be used: a run never starts anew
            over them.
    """
    paths = _candidates(folder)
    reasons = []
    for path in sorted(paths, key=lambda path: (path.name == LAST, peek_step(path)), reverse=True):
        try:
            checkpoint = load_checkpoint(path)
        except WeightsError as error:
            reasons.append(str(error))
        else:
            if checkpoint.training:
                for reason in reasons:
                    warn(f"{reason}; going on from {path.name}")
                return path, checkpoint
            reasons.append(f"{path}: holds weights only")
    if not paths:
        return None
    raise WeightsError(
        f"{folder}: no checkpoint that the run can go on from ({'; '.join(reasons)}); to start "
        "anew, name another folder"
    )


def _candidates(folder: Path) -> list[Path]:
    """Files that may hold training state, of the same step the likeliest first."""
    paths = [folder / LAST, folder / PREVIOUS, *_epoch_files(folder)]
    return [path for path in paths if path.is_file()]


def _epoch_files(folder: Path) -> list[Path]:
    """Checkpoints of epochs, newest first."""
    paths = folder.glob("epoch-*.pt")
    numbers = {path: re.fullmatch(r"epoch-(\d{4,})\.pt", path.name) for path in paths}
    found = {path: int(match[1]) for path, match in numbers.items() if match}
    return sorted(found, key=lambda path: found[path], reverse=True)


def _next_free(name: str) -> Path:
    for number in itertools.count(1):
        folder = Path("runs") / file_name(name, f"-{number}")
        # Making it is the test: two runs that start together must not share one.
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")
