# SPDX-License-Identifier: Apache-2.0
"""What the person who watches sees: a live bar on a terminal, else a line now and then."""

import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effdet import bars
from effdet.counts import counted
from effdet.errors import printable, printable_lines
from effdet.metrics.table import FIGURES
from effdet.settings import Console as ConsoleKind


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run is.

    Attributes:
        epoch: counted from 1.
        epochs: of the run.
        step: steps done in this epoch.
        steps: of an epoch.
        left: seconds to the end of the run.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    left: float


class Lines:
    """Readable lines, for files and pipes.

    Args:
        progress: whether steps and epochs have a line.
    """

    def __init__(self, *, progress: bool = True) -> None:
        self.progress = progress

    def say(self, text: str) -> None:
        """Print ``text``."""
        print(printable_lines(text), flush=True)

    def warn(self, text: str) -> None:
        """Print ``text`` on standard error."""
        print(printable_lines(text), file=sys.stderr, flush=True)

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        """An epoch of ``steps`` steps begins."""

    def tick(self, step: int) -> None:
        """``step`` steps are done in this epoch."""

    def show(self, position: Position, values: Mapping[str, Any]) -> None:
        """Show the values of the last steps."""
        if self.progress:
            self.say(
                f"epoch {position.epoch}/{position.epochs}  "
                f"step {position.step}/{position.steps}  "
                f"{'  '.join(describe(values).values())}  left {duration(position.left)}"
            )

    def state(self, text: str) -> None:
        """What the run does besides training."""

    def end_epoch(
        self,
        epoch: int,
        epochs: int,
        seconds: float,
        values: Mapping[str, Any],
        figures: Mapping[str, Any],
    ) -> None:
        """Show the mean loss of an epoch and its COCO figures, if it has any."""
        if not self.progress:
            return
        parts = [f"epoch {epoch}/{epochs}", duration(seconds)]
        parts += [text for name, text in describe(values).items() if name == "loss"]
        if figures:
            parts += [f"{name} {share(figures.get(name))}" for name in FIGURES[:6]]
        if figures.get("weights"):
            parts.append(f"({figures['weights']})")
        if values.get("bad_images"):
            parts.append(f"{counted(values['bad_images'], 'bad image')} replaced")
        if figures.get("bad_val_images"):
            parts.append(f"AP without {counted(figures['bad_val_images'], 'bad image')}: too low")
        self.say("  ".join(parts))

    def close(self) -> None:
        """Leave the terminal as it was."""


class Bars(Lines):
    """A bar that moves with each step over a line of values; texts are printed above them."""

    def __init__(self) -> None:
        super().__init__()
        bars.Bar.set_lock(threading.RLock())  # tqdm's own one is shared with forked processes
        self.bar: bars.Bar | None = None
        self.values: bars.Bar | None = None

    def say(self, text: str) -> None:
        """Print ``text`` above the bar."""
        bars.Bar.write(printable_lines(text), file=sys.stdout)
        sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Print ``text`` on standard error, above the bar where that is the terminal, too."""
        bars.Bar.write(printable_lines(text), file=sys.stderr)

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        """A new bar."""
        self.close()
        self.bar = bars.Bar(
            total=steps,
            position=0,
            desc=f"epoch {epoch}/{epochs}",
            bar_format="{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}",
            **_ON_STDOUT,
            file=sys.stdout,
        )
        self.values = bars.Bar(
            total=0, position=1, bar_format="{desc}", **_ON_STDOUT, file=sys.stdout
        )

    def tick(self, step: int) -> None:
        """Move the bar, at most ten times a second on the screen."""
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def show(self, position: Position, values: Mapping[str, Any]) -> None:
        """Renew the values."""
        parts = describe(values)
        beside = [parts.pop(name) for name in _ON_THE_BAR if name in parts]
        if self.bar is not None:
            self.bar.n = position.step
            self.bar.set_postfix_str(", ".join([*beside, f"left {duration(position.left)}"]))
        self.state("  ".join(parts.values()))

    def state(self, text: str) -> None:
        """Show ``text`` in the place of the values."""
        if self.values is not None:
            self.values.set_description_str(printable(text))

    def close(self) -> None:
        """Take the bar away."""
        for bar in (self.values, self.bar):
            if bar is not None:
                bar.close()
        self.bar = self.values = None


_ON_STDOUT: dict[str, Any] = {"leave": False, "dynamic_ncols": True, "miniters": 1}


def build_console(kind: ConsoleKind) -> Lines:
    """A bar where ``auto`` finds a terminal, else lines, of which ``dllogger`` prints its own."""
    if kind == "auto" and is_terminal():
        return Bars()
    return Lines(progress=kind != "dllogger")


def is_terminal() -> bool:
    """Whether standard output is a terminal that can move its cursor and tells its width."""
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return False
    return os.get_terminal_size(sys.stdout.fileno()).columns > 0


def describe(values: Mapping[str, Any]) -> dict[str, str]:
    """The plain values of the last steps in words; what is not there is left out."""
    shown = {name: _NotFinite() if value is None else value for name, value in values.items()}
    for name in ("memory", "skipped"):
        if not values.get(name):
            shown.pop(name, None)
    if "memory" in shown:
        shown["memory"] = size(values["memory"])
    parts = {}
    for name, text in _PARTS.items():
        with contextlib.suppress(KeyError):
            parts[name] = text.format_map(shown)
    return parts


_PARTS = {
    "loss": "loss {loss:.4f} (cls {cls_loss:.4f} box {box_loss:.5f})",
    "lr": "lr {lr:.2e}",
    "grad_norm": "grad {grad_norm:.2f}",
    "images_per_second": "{images_per_second:.1f} img/s",
    "data_share": "data {data_share:.0%}",
    "memory": "mem {memory}",
    "skipped": "skipped {skipped:.0f}",
}
_ON_THE_BAR = ("data_share", "memory", "skipped")  # so that both lines fit 80 columns


class _NotFinite:
    """A number that plain values have as None."""

    def __format__(self, spec: str) -> str:
        return "nan"


def size(count: float) -> str:
    """``count`` bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def share(value: float | None) -> str:
    """A COCO figure from 0 to 1 with three digits, as COCO prints it, ``-`` for none."""
    return "-" if value is None else f"{value:.3f}"
