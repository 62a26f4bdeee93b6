# SPDX-License-Identifier: Apache-2.0
"""Errors for the person who made the mistake, and the exit code of each kind."""

import contextlib
import difflib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

FEW = 12
"""Names that an error message lists where none is like the one that was given."""


class EffdetError(Exception):
    """Something the user can mend; programs print it as one line and leave with ``exit_code``."""

    exit_code = 1


class UsageError(EffdetError, ValueError):
    """An option, a name or a value that cannot work."""

    exit_code = 2


class SettingError(UsageError):
    """A value that a setting cannot have; :mod:`effdet.flags` names the setting as it was given.

    Args:
        name: the field.
        text: what it must be and what was found, from ``must`` on.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)
        self.name, self.text = name, text

    def __str__(self) -> str:
        return f"{self.name} {self.text}"


class DataError(EffdetError, ValueError):
    """An annotation file, an image or a data folder that cannot be used."""

    exit_code = 3


class WeightsError(EffdetError, ValueError):
    """A checkpoint or weights file that is damaged or belongs to another model."""

    exit_code = 4


class ExportError(EffdetError, RuntimeError):
    """A model that cannot be written in the wanted form."""

    exit_code = 5


class DivergedError(EffdetError, ArithmeticError):
    """Losses, gradients or weights that are not finite any more.

    Attributes:
        batches: of the last step, where one was done.
    """

    exit_code = 6
    batches: Sequence[Any] = ()


class PeerError(EffdetError, RuntimeError):
    """Another process of the group that died or hangs."""

    exit_code = 7


class DeviceMemoryError(EffdetError, MemoryError):
    """A batch that does not fit into the device's memory."""

    exit_code = 8


class SignalError(EffdetError):
    """A signal that asked the run to end; its state is saved.

    Args:
        signal: number of the signal.
        text: what was saved and how to go on.
    """

    def __init__(self, signal: int, text: str) -> None:
        super().__init__(text)
        self.signal = signal
        self.exit_code = 128 + signal


def nearest(name: str, known: Iterable[str], count: int = 3, *, told: bool = False) -> str:
    """The end of an error message: the known names most like ``name``, or all if they are few.

    Args:
        name: that was given.
        known: all there are.
        count: the most that are named.
        told: the message has named them all before: only those like ``name`` are again.
    """
    by_folded = {other.casefold(): other for other in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.55)
    if matches:
        return f"; did you mean {' or '.join(by_folded[match] for match in matches)}?"
    is_few = 0 < len(by_folded) <= FEW and not told
    return f"; known: {', '.join(by_folded.values())}" if is_few else ""


def one_line(error: BaseException) -> str:
    """What ``error`` says, without its line breaks."""
    return printable(" ".join(str(error).split()))


def printable(text: str) -> str:
    """``text`` with every character that is not printable as its escape.

    Names come from files of others: none may move a terminal's cursor or begin a line of its own.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """:func:`printable` of each line."""
    return "\n".join(map(printable, text.split("\n")))


def shown(value: object, length: int = 80) -> str:
    """``value`` as it stands in an error message: its ``repr``, printable and cut at ``length``."""
    text = printable(repr(value))
    return text if len(text) <= length else text[: length - 3] + "..."


def run(
    main: Callable[[], None], program: str, report: Callable[[str], bool] = lambda line: True
) -> None:
    """Call ``main`` and turn a user's mistake into one line on stderr and its exit code.

    With ``--debug`` on the command line or ``EFFDET_DEBUG=1`` the traceback is printed as well.

    Args:
        main: the program.
        program: what the line begins with.
        report: called with the line; whether to print it. Of many processes one is enough.
    """
    debug = "--debug" in sys.argv or os.environ.get("EFFDET_DEBUG") == "1"
    try:
        main()
        _flush()
    except KeyboardInterrupt:
        _tell(f"{program}: interrupted")
        code = 130
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough.
        _silence()
        code = 141
    except (EffdetError, OSError) as error:
        if debug:
            _tell(printable_lines(traceback.format_exc().rstrip()))
        line = f"{program}: error: {one_line(error)}"
        if report(line) or debug:
            _tell(line)
        code = getattr(error, "exit_code", 1)
    else:
        return
    raise SystemExit(code)


def _flush() -> None:
    """Write what is printed; what cannot be must not be tried again when Python ends."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            _silence()
            raise


def _silence() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(line: str) -> None:
    """Print on standard error; where nobody can hear it the exit code must still be right."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
