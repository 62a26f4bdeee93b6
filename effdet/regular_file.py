# SPDX-License-Identifier: Apache-2.0
"""Opening files whose names and bytes come from others: regular files, nothing else with a name."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from effdet.errors import EffdetError, one_line, printable


@contextmanager
def open_regular(
    path: str | Path, what: str, error: type[EffdetError], max_bytes: int | None = None
) -> Iterator[BufferedReader]:
    """The file at ``path``, which is the same until closed, whatever gets its name meanwhile.

    Pipes and devices are refused and never waited for: reading one might never end.

    Args:
        path: the file.
        what: how messages call it, such as ``image file``.
        error: what is raised.
        max_bytes: size of a file that is read; None for any.

    Raises:
        EffdetError: of the kind ``error``, where there is no such file, it is no regular one or
            too large, or reading it fails.
    """
    name = printable(str(path))
    try:
        _check(Path(path).stat(), max_bytes)  # first: to open a device may do something
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except _RefusedError as reason:
        raise error(f"{name}: {reason}, expected {_a(what)}") from None
    except (FileNotFoundError, NotADirectoryError) as cause:
        raise error(f"{name}: no such {what}") from cause
    except (OSError, ValueError) as cause:  # ValueError: names that no file can have
        raise error(f"{name}: cannot read the {what}: {_reason(cause)}") from cause
    with os.fdopen(descriptor, "rb") as file:
        try:
            _check(os.fstat(descriptor), max_bytes)
            yield file
        except _RefusedError as reason:
            raise error(f"{name}: {reason}, expected {_a(what)}") from None
        except OSError as cause:
            if isinstance(cause, EffdetError):
                raise
            raise error(f"{name}: cannot read the {what}: {_reason(cause)}") from cause


class _RefusedError(Exception):
    """Says what is there instead."""


def _check(found: os.stat_result, max_bytes: int | None) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise _RefusedError("a folder")
    if not stat.S_ISREG(found.st_mode):
        raise _RefusedError("not a regular file")
    if max_bytes is not None and found.st_size > max_bytes:
        raise _RefusedError(f"a file of {found.st_size:,} bytes, more than {max_bytes:,}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"
