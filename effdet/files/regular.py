# SPDX-License-Identifier: Apache-2.0
"""Opening files whose names and bytes come from others: regular files, nothing else with a name."""

import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from effdet.errors import EffdetError, one_line, printable

_BLOCK = 1 << 20


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
    with (
        _opened(path, what, error, max_bytes) as (descriptor, _),
        os.fdopen(descriptor, "rb", closefd=False) as file,
    ):
        yield file


def read_regular(path: str | Path, what: str, error: type[EffdetError], max_bytes: int) -> bytes:
    """All of the file at ``path``; arguments and errors as :func:`open_regular`.

    Of thousands of small files it costs a third: what is read has the size of the file, not of the
    most that might be.
    """
    with _opened(path, what, error, max_bytes) as (descriptor, size):
        pieces = []
        while size > 0 and (piece := os.read(descriptor, size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def hash_rest(
    file: BinaryIO,
    start: bytes = b"",
    size: int | None = None,
    told: Callable[[int], object] = lambda count: None,
) -> "hashlib._Hash":
    """SHA-256 of ``start`` and of the ``size`` next bytes of ``file``, by default all.

    ``told`` is called with the number of bytes after each piece.
    """
    digest = hashlib.sha256(start)
    left = math.inf if size is None else size
    while left > 0 and (block := file.read(int(min(left, _BLOCK)))):
        digest.update(block)
        told(len(block))
        left -= len(block)
    return digest


@contextmanager
def _opened(
    path: str | Path, what: str, error: type[EffdetError], max_bytes: int | None
) -> Iterator[tuple[int, int]]:
    """A descriptor of the file, and its size in bytes."""
    descriptor = None
    try:
        # First, since to open a device may do something.
        _check(os.stat(path), max_bytes)  # noqa: PTH116 - of thousands of files
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        yield descriptor, _check(os.fstat(descriptor), max_bytes)
    except _RefusedError as reason:
        raise error(f"{printable(str(path))}: {reason}, expected {_a(what)}") from None
    except (OSError, ValueError) as cause:  # ValueError: names that no file can have
        if isinstance(cause, EffdetError):
            raise
        if descriptor is None and isinstance(cause, FileNotFoundError | NotADirectoryError):
            raise error(f"{printable(str(path))}: no such {what}") from cause
        if descriptor is not None and isinstance(cause, ValueError):
            raise
        raise error(f"{printable(str(path))}: cannot read the {what}: {_reason(cause)}") from cause
    finally:
        if descriptor is not None:
            os.close(descriptor)


class _RefusedError(Exception):
    """Says what is there instead."""


def _check(found: os.stat_result, max_bytes: int | None) -> int:
    """The size of a file that may be read."""
    if stat.S_ISDIR(found.st_mode):
        raise _RefusedError("a folder")
    if not stat.S_ISREG(found.st_mode):
        raise _RefusedError("not a regular file")
    if max_bytes is not None and found.st_size > max_bytes:
        raise _RefusedError(f"a file of {found.st_size:,} bytes, more than {max_bytes:,}")
    return found.st_size


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"
