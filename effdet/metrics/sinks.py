# SPDX-License-Identifier: Apache-2.0
"""Trackers of experiments that also get the values: TensorBoard, Weights & Biases, MLflow.

None is a dependency; each is imported only where ``--log-to`` names it.
"""

import importlib
import importlib.util
import json
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from effdet.errors import UsageError
from effdet.files import replace_text
from effdet.settings import Sink as SinkName

TRACKERS = "trackers.json"
"""File of the run folder that holds the ids of the run at the trackers, to go on with them."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a tracker must know of a run.

    Attributes:
        folder: the run folder.
        name: of the run.
        parameters: its settings, plain values.
        first_step: steps done before this start.
    """

    folder: Path
    name: str
    parameters: Mapping[str, Any]
    first_step: int


class Sink(Protocol):
    """A tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take finite ``values`` after ``step`` steps of the run."""

    def close(self, state: str) -> None:
        """End the run: finished, failed, preempted or interrupted."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder."""

    def __init__(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier start logged after the step it is continued at is hidden.
        self.writer: Any = SummaryWriter(
            str(run.folder / "tensorboard"), purge_step=run.first_step + 1, flush_secs=10
        )
        text = f"```\n{json.dumps(dict(run.parameters), indent=1)}\n```"
        self.writer.add_text("parameters", text, run.first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a scalar each."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self, state: str) -> None:
        """Write out what is buffered."""
        self.writer.close()


class WandB:
    """A Weights & Biases run; a run that goes on has the same id."""

    def __init__(self, run: RunInfo) -> None:
        wandb: Any = importlib.import_module("wandb")
        known = _read_ids(run.folder).get("wandb")
        identity = known or uuid.uuid4().hex
        self.run = wandb.init(
            id=identity,
            resume="allow",
            name=run.name,
            dir=str(run.folder),
            config=dict(run.parameters),
        )
        _keep_id(run.folder, "wandb", identity)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log all under one step."""
        self.run.log(dict(values), step=step)

    def close(self, state: str) -> None:
        """End the run; all but a finished one are failed to W&B."""
        self.run.finish(exit_code=0 if state == "finished" else 1)


class MLflow:
    """An MLflow run at the tracking server that MLflow is set to; one that goes on is kept."""

    def __init__(self, run: RunInfo) -> None:
        self.mlflow: Any = importlib.import_module("mlflow")
        known = _read_ids(run.folder).get("mlflow")
        started = self.mlflow.start_run(run_id=known, run_name=None if known else run.name)
        if known is None:
            _keep_id(run.folder, "mlflow", started.info.run_id)
            # MLflow takes 6000 characters a value and refuses a parameter that changes.
            self.mlflow.log_params({key: str(v)[:6000] for key, v in run.parameters.items()})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log all under one step."""
        self.mlflow.log_metrics(dict(values), step=step)

    def close(self, state: str) -> None:
        """End the run."""
        ends = {"finished": "FINISHED", "preempted": "KILLED", "interrupted": "KILLED"}
        self.mlflow.end_run(status=ends.get(state, "FAILED"))


_SINKS: dict[SinkName, Callable[[RunInfo], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def require_installed(names: Iterable[SinkName]) -> None:
    """Check that every tracker is there, without importing it.

    Raises:
        UsageError: where one is not installed.
    """
    for name in names:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise UsageError(
                f"--log-to {name} needs the package {name}, which is not installed: "
                f"pip install {name}, or leave it out of --log-to"
            )


def open_sink(name: SinkName, run: RunInfo) -> Sink:
    """Start or go on with ``run`` at a tracker; it raises whatever the tracker raises."""
    return _SINKS[name](run)


def _read_ids(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / TRACKERS).read_text()))
    except (OSError, ValueError):
        return {}


def _keep_id(folder: Path, name: str, identity: str) -> None:
    ids = _read_ids(folder) | {name: identity}
    replace_text(folder / TRACKERS, json.dumps(ids, indent=1) + "\n")
