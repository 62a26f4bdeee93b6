# SPDX-License-Identifier: Apache-2.0
"""The lines of NVIDIA's dllogger 1.1: a JSON object each in a file, or readable ones on stdout.

The package writes them where it is installed (https://github.com/NVIDIA/dllogger; it is not on the
package index). Elsewhere the classes here write the same bytes.
"""

import importlib.util
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from effdet.errors import printable
from effdet.metrics.line_file import LineFile, cut_torn_line
from effdet.metrics.table import FIGURES

Step = tuple[int, ...] | str
"""``(epoch, step)``, ``(epoch,)`` for an epoch, ``()`` for the run, or a word: ``PARAMETER``."""

_AP: dict[str, str] = {"format": ":.4f"}

METADATA: dict[str, dict[str, str]] = {
    "loss": {"format": ":.4f"},
    "cls_loss": {"format": ":.4f"},
    "box_loss": {"format": ":.5f"},
    "lr": {"format": ":.3e"},
    "grad_norm": {"format": ":.3f"},
    "images_per_second": {"unit": "img/s", "format": ":.2f"},
    "data_share": {"format": ":.3f"},
    "skipped": {"unit": "steps"},
    "memory": {"unit": "bytes"},
    "seconds": {"unit": "s", "format": ":.1f"},
    **dict.fromkeys((*FIGURES, "AP_ema", "AP_raw", "best_AP"), _AP),
}
"""Unit and format of each metric that has one."""


class Logger(Protocol):
    """A place for records."""

    def log(self, step: Step, data: Mapping[str, Any]) -> None:
        """Write ``data``, plain values, as one line that is out when this returns."""

    def metadata(self, metric: str, metadata: Mapping[str, Any]) -> None:
        """Say which ``unit`` and ``format`` a metric has."""

    def close(self) -> None:
        """Let go of the file until the next record."""


class JsonLines:
    """``DLLL {...}`` lines at the end of a file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.file = LineFile(path)
        self.start = datetime.now()

    def log(self, step: Step, data: Mapping[str, Any]) -> None:
        """Append a ``LOG`` record."""
        now = datetime.now()
        self.file.append(log_record(now, (now - self.start).total_seconds(), step, data))

    def metadata(self, metric: str, metadata: Mapping[str, Any]) -> None:
        """Append a ``METADATA`` record."""
        now = datetime.now()
        elapsed = (now - self.start).total_seconds()
        self.file.append(metadata_record(now, elapsed, metric, metadata))

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class StdoutLines:
    """``DLL ...`` lines on standard output."""

    def __init__(self) -> None:
        self.known: dict[str, Mapping[str, Any]] = {}

    def log(self, step: Step, data: Mapping[str, Any]) -> None:
        """Print a record."""
        line = stdout_line(datetime.now(), step, data, self.known)
        print(printable(line), flush=True)

    def metadata(self, metric: str, metadata: Mapping[str, Any]) -> None:
        """Keep unit and format for the records to come; nothing is printed."""
        self.known[metric] = {**self.known.get(metric, {}), **metadata}

    def close(self) -> None:
        """Nothing is open."""


class PackageLogger:
    """dllogger's own ``Logger`` around one of its backends.

    Args:
        package: the module.
        backend: of the module.
    """

    def __init__(self, package: Any, backend: Any) -> None:
        self.backend = backend
        self.logger = package.Logger([backend])
        self.verbosity = package.Verbosity.DEFAULT

    def log(self, step: Step, data: Mapping[str, Any]) -> None:
        """Write a record and flush it."""
        self.logger.log(step, dict(data), self.verbosity)
        self._flush()

    def metadata(self, metric: str, metadata: Mapping[str, Any]) -> None:
        """Write or keep unit and format."""
        self.logger.metadata(metric, dict(metadata))
        self._flush()

    def close(self) -> None:
        """Flush; the package closes its file when the process ends."""
        self._flush()

    def _flush(self) -> None:
        self.logger.flush()
        print(end="", flush=True)  # StdOutBackend prints and has nothing to flush


def build_json_logger(path: Path) -> Logger:
    """A logger that appends to ``path``, by the package where it is installed."""
    if not is_installed():
        return JsonLines(path)
    import dllogger

    cut_torn_line(path)
    verbosity = dllogger.Verbosity.DEFAULT
    return PackageLogger(dllogger, dllogger.JSONStreamBackend(verbosity, str(path), append=True))


def build_stdout_logger() -> Logger:
    """A logger that prints, by the package where it is installed."""
    if not is_installed():
        return StdoutLines()
    import dllogger

    return PackageLogger(dllogger, dllogger.StdOutBackend(dllogger.Verbosity.DEFAULT))


def is_installed() -> bool:
    """Whether there is a dllogger package."""
    return importlib.util.find_spec("dllogger") is not None


def log_record(timestamp: datetime, elapsed: float, step: Step, data: Mapping[str, Any]) -> str:
    """The line of a ``LOG`` record.

    Args:
        timestamp: naive local time.
        elapsed: seconds since the start.
        step: what the values belong to.
        data: plain values.
    """
    record = {
        "timestamp": str(timestamp.timestamp()),
        "datetime": str(timestamp.astimezone()),
        "elapsedtime": str(elapsed),
        "type": "LOG",
        "step": step,
        "data": data,
    }
    return f"DLLL {json.dumps(record)}"


def metadata_record(
    timestamp: datetime, elapsed: float, metric: str, metadata: Mapping[str, Any]
) -> str:
    """The line of a ``METADATA`` record; dllogger has its keys in another order."""
    record = {
        "timestamp": str(timestamp.timestamp()),
        "elapsedtime": str(elapsed),
        "datetime": str(timestamp.astimezone()),
        "type": "METADATA",
        "metric": metric,
        "metadata": metadata,
    }
    return f"DLLL {json.dumps(record)}"


def stdout_line(
    timestamp: datetime,
    step: Step,
    data: Mapping[str, Any],
    metadata: Mapping[str, Mapping[str, Any]],
) -> str:
    """The readable line of a record.

    Args:
        timestamp: naive local time.
        step: what the values belong to.
        data: plain values.
        metadata: unit and format by metric.
    """
    items = (_item(name, value, metadata.get(name, {})) for name, value in data.items())
    return f"DLL {timestamp} - {step} {' '.join(items)}"


def _item(metric: str, value: Any, metadata: Mapping[str, Any]) -> str:
    shown = value if value is None else f"{{{metadata.get('format', '')}}}".format(value)
    return f"{metric} : {shown} {metadata.get('unit', '')}"
