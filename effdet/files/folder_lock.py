# SPDX-License-Identifier: Apache-2.0
"""Folders that one process has to itself."""

import errno
import os
import socket
import time
from pathlib import Path

from effdet.errors import UsageError
from effdet.files.writing import write_error

LOCK = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FolderLock:
    """Keeps a folder to one process; the kernel gives it free when that process ends, however.

    Processes forked later do not hold the lock.

    Args:
        folder: the folder, which must exist.
        patience: seconds to wait for another process, which may be about to end.
        name: of the file that stands for the lock; another one is another lock.
    """

    def __init__(self, folder: Path, patience: float = 5.0, name: str = LOCK) -> None:
        self.path = folder / name
        self.patience = patience
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process has the lock."""
        return self._descriptor is not None

    def __enter__(self) -> "FolderLock":
        """Take the lock; where the file system has none, ``held`` stays False.

        Raises:
            UsageError: where another process has it, which is named as pid@host.
            WriteError: where the lock file cannot be opened.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            locked = self._wait(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if not locked:
            os.close(descriptor)
            return self
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}@{socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise write_error(self.path, error) from error
        self._descriptor = descriptor
        # A lock of flock() lives as long as any copy of its descriptor: loader workers, which may
        # outlive this process by a moment, must not have one.
        os.register_at_fork(after_in_child=self._close)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _wait(self, descriptor: int) -> bool:
        """Whether the lock was got; False where there are no locks."""
        import fcntl  # not on every system

        deadline = time.monotonic() + self.patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    owner = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
                    raise UsageError(
                        f"{self.path.parent} is in use by process {owner or 'unknown'}; wait for "
                        "it, stop it, or name another folder"
                    ) from error
                time.sleep(0.05)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return False
                raise write_error(self.path, error) from error
            else:
                return True
