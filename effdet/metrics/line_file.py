# SPDX-License-Identifier: Apache-2.0
"""Log files that hold whole lines, whatever happens to the process."""

import contextlib
import os
from pathlib import Path


class LineFile:
    """A file to append lines to; a line is there at once, and whole or not at all.

    Args:
        path: the file, made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def append(self, line: str) -> None:
        """Add ``line`` and its end.

        Raises:
            OSError: it cannot be written; the file is as it was.
        """
        if self._file is None:
            cut_torn_line(self.path)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o666)
        size = os.fstat(self._file).st_size
        rest = memoryview(f"{line}\n".encode())
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise

    def close(self) -> None:
        """Let go of the file; the next line opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def cut_torn_line(path: Path) -> None:
    """Take away the line without an end that a kill in the middle of a write has left."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        keep = 0
        while end > 0:
            start = max(end - 65536, 0)
            file.seek(start)
            last = file.read(end - start).rfind(b"\n")
            if last >= 0:
                keep = start + last + 1
                break
            end = start
        file.truncate(keep)
