# SPDX-License-Identifier: Apache-2.0
"""Which run goes on, and whether the settings are still its own."""

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from effdet import distributed, flags
from effdet.errors import DataError, EffdetError, UsageError, WeightsError
from effdet.files import check_writable, remove_leftovers
from effdet.files.folder_lock import FolderLock
from effdet.run_files import BEST, CONFIG, LAST, PREVIOUS
from effdet.settings import SETTLED, TrainConfig
from effdet.training.run_folder import (
    create_run_folder,
    has_checkpoints,
    load_resumed,
    newest_checkpoint,
    resume_path,
)
from effdet.weights import Checkpoint, load_checkpoint

AUTO = "auto"

_MISTAKES = (UsageError.exit_code, DataError.exit_code, WeightsError.exit_code)
_FIRST_FILES = (CONFIG, "environment.json", "log.jsonl", "status.json", ".lock")

CHANGEABLE = {
    "resume", "output", "device", "workers", "data", "train_annotations", "train_images",
    "val_annotations", "val_images", "epochs", "batch_size", "accumulate", "timeout",
    "save_minutes", "save_every", "keep", "eval_every", "eval_from", "eval_weights", "patience",
    "log_every", "console", "log_to", "evaluator", "max_nonfinite", "detect_anomaly",
}  # fmt: skip
"""What may be another when a run goes on; the rest is part of what it is."""


_BEGINNINGS = ("weights", "backbone_weights")


def saved_settings(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that ``--resume RUN`` begins with; none without it and for ``auto``."""
    if given.get("resume") in (None, AUTO):
        return {}
    path, checkpoint = load_resumed(given["resume"], _warn)
    saved = _settings_in(checkpoint, path)
    # Where a run lies is no part of it; what follows goes to where it was found.
    return {n: v for n, v in saved.items() if n not in ("resume", "output")}


def _settings_in(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """The settings of the run that a checkpoint is of, as far as this version has them.

    Raises:
        WeightsError: where they are none that a run can have.
    """
    saved = checkpoint.training.get("config")
    if not isinstance(saved, dict):
        raise WeightsError(f"{path}: damaged training state (no settings of the run)")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    try:
        values = {name: value for name, value in saved.items() if name in known}
        values = flags.checked_values(TrainConfig, values, path)
        TrainConfig(**values)
    except (UsageError, TypeError, ValueError, ArithmeticError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise WeightsError(f"{path}: damaged training state ({reason[:200]})") from error
    return values


def check_same_run(config: TrainConfig, saved: Mapping[str, Any], source: Path) -> None:
    """Refuse settings that would make another run of the one in ``source``.

    Raises:
        UsageError: with all settings that differ, and both values.
    """
    wanted = dataclasses.asdict(config)
    # A file that the run began with may have been given another name since; it is not read again.
    renamed = [n for n in _BEGINNINGS if wanted[n] is not None and saved.get(n) is not None]
    differing = [
        f"{flags.flag_name(name)} {wanted[name]} (was {_plain(saved[name])})"
        for name in wanted
        if name in saved
        and name not in (*CHANGEABLE, *renamed)
        and _plain(wanted[name]) != _plain(saved[name])
    ]
    if differing:
        raise UsageError(
            f"{source} is a run with other settings: {', '.join(differing)}; give its own to go on "
            "with it, or another --output (and --weights) for a new run"
        )


def as_saved(config: TrainConfig, saved: Mapping[str, Any]) -> TrainConfig:
    """``config`` with what is left to the weights to say as the run began with it."""
    if config.weights is None and config.backbone_weights is None:
        return config.settled(None)
    values: dict[str, Any] = {
        name: saved.get(name) for name in SETTLED if getattr(config, name) is None
    }
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return dataclasses.replace(config, **values)


def goes_on(config: TrainConfig) -> bool:
    """Whether the run begins with a checkpoint of its own, not with weights of another."""
    if config.resume != AUTO:
        return config.resume is not None
    assert config.output is not None
    return has_checkpoints(Path(config.output))


@dataclass(frozen=True, kw_only=True, eq=False)
class Resumed:
    """What a run goes on from.

    Attributes:
        path: the checkpoint's file.
        checkpoint: what is in it.
    """

    path: Path
    checkpoint: Checkpoint


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run that may write to its folder.

    Attributes:
        folder: the run folder, the same on all processes.
        resumed: what it goes on from, None for a new run.
        config: its settings, with nothing left for weights to say.
    """

    folder: Path
    resumed: Resumed | None
    config: TrainConfig


def open_run(config: TrainConfig, stack: ExitStack) -> Run:
    """Make or find the run folder, lock it until ``stack`` is left, and find where to go on.

    The main process decides; all must see the same folder.

    Raises:
        UsageError: for a folder that holds something else, is used by another run or holds a run
            with other settings.
        WeightsError: where all checkpoints of the run are damaged.
    """
    found = None
    if distributed.is_main():
        found = _open_run(config, stack)
    folder, path = distributed.broadcast_from_main(found)
    resumed = None
    if path is not None:
        checkpoint = load_checkpoint(path)
        saved = _settings_in(checkpoint, path)
        config = as_saved(config, saved)
        check_same_run(config, saved, path)
        resumed = Resumed(path=path, checkpoint=checkpoint)
    return Run(folder=folder, resumed=resumed, config=config)


def _open_run(config: TrainConfig, stack: ExitStack) -> tuple[Path, Path | None]:
    """The folder, and the checkpoint to go on from, None for a new run."""
    if config.resume is None:
        return _new_run(config, stack), None
    if config.resume != AUTO:
        path = resume_path(config.resume)
        if config.output is not None and Path(config.output).resolve() != path.parent.resolve():
            raise UsageError(
                f"--resume {config.resume} goes on in {path.parent}; leave out --output "
                f"{config.output}, or give --weights instead of --resume for a new run"
            )
        _take(path.parent, stack)
        return path.parent, load_resumed(config.resume, _warn)[0]
    assert config.output is not None
    folder = Path(config.output)
    if not (folder / CONFIG).is_file() and not has_checkpoints(folder):
        return _new_run(config, stack), None
    _take(folder, stack)
    found = newest_checkpoint(folder, _warn)
    if found is not None:
        return folder, found[0]
    # Killed before its first checkpoint: the same run from its beginning.
    saved = flags.load_yaml(TrainConfig, folder / CONFIG)
    check_same_run(as_saved(config, saved), saved, folder)
    return folder, None


def _new_run(config: TrainConfig, stack: ExitStack) -> Path:
    assert config.model is not None
    folder = create_run_folder(config.output, config.model)
    _take(folder, stack)
    stack.push(functools.partial(_leave_nothing, folder))
    flags.save_yaml(config, folder / CONFIG, leave_out=("output",))
    return folder


def _take(folder: Path, stack: ExitStack) -> None:
    """Lock the folder, see that it can be written to, and clear what a killed run has left."""
    for name in (LAST, PREVIOUS, BEST):
        if (folder / name).exists() and not (folder / name).is_file():
            raise UsageError(f"{folder / name} is not a file; move it away or name another folder")
    check_writable(folder)
    stack.enter_context(FolderLock(folder))
    remove_leftovers(folder)


def _leave_nothing(
    folder: Path,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Where a mistake ends a new run before its first step, its name is free again."""
    # Also one that another process has met.
    mistake = isinstance(error, EffdetError) and error.exit_code in _MISTAKES
    if not mistake or has_checkpoints(folder) or _has_trained(folder):
        return
    for path in [folder / name for name in _FIRST_FILES]:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody put something else there
        folder.rmdir()


def _has_trained(folder: Path) -> bool:
    """Whether the run of ``folder`` has done a step, as its status says."""
    try:
        status = json.loads((folder / "status.json").read_text())
        return bool(status["epoch"] > 1 or status["step"] > 0)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _warn(text: str) -> None:
    print(f"train.py: warning: {text}", file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
