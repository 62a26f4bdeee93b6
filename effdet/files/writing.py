# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there at all."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from effdet.errors import EffdetError, UsageError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class WriteError(EffdetError, OSError):
    """A file that could not be written; what was there before is still there.

    Args:
        number: the system's error number, such as ``errno.ENOSPC``.
        text: path, reason and, where space is what is missing, how much.
    """

    def __init__(self, number: int | None, text: str) -> None:
        super().__init__(number, text)

    def __str__(self) -> str:
        return str(self.args[1])


def new_folder(output: str | Path, advice: str) -> Path:
    """Make the folder that ``--output`` names, which must not exist or be empty.

    Args:
        output: the folder.
        advice: what to do where there is something in it already.

    Raises:
        UsageError: where it holds something or cannot be made.
    """
    folder = Path(output)
    refuse_taken(folder, "--output", advice)
    make_folder(folder, folder, "--output")
    return folder


def refuse_taken(folder: Path, called: str, advice: str) -> None:
    """Refuse a folder, which messages call ``called``, that is not empty or none.

    Raises:
        UsageError: which ends with ``advice``.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            kind = "is not empty" if folder.is_dir() else "is not a folder"
            raise UsageError(f"{called} {folder} exists and {kind}; {advice}")
    except OSError as error:
        raise UsageError(f"{called} {folder} cannot be read: {error.strerror}") from error


def make_folder(folder: Path, wanted: Path, called: str) -> None:
    """Make ``folder`` and those above it, for the one that is ``wanted``.

    Raises:
        UsageError: with the system's reason, naming the one that is wanted as ``called``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{called} {wanted} cannot be made: {error.strerror}") from error


def check_writable(folder: Path) -> None:
    """Try what a save does (write, fsync, rename) before hours of work depend on it.

    The folders above it are synced as well: a new folder must not be lost with what is in it.

    Raises:
        UsageError: with the system's reason.
    """
    probe = folder / ".probe"
    try:
        write_atomically(probe, lambda file: file.write(b"probe"))
        probe.unlink()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UsageError(f"--output {folder} cannot be written to: {reason}") from error
    for parent in folder.absolute().parents:
        with contextlib.suppress(OSError):  # those that are not ours to read are not new
            _sync_folder(parent)


def check_name(path: Path) -> None:
    """Try whether a file can be written under this name, which stays as it is.

    Raises:
        UsageError: with the system's reason.
    """
    temporary = _temporary(path)
    try:
        os.close(_create(temporary))
        temporary.unlink()
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_output(
    path: str | Path, others: Iterable[str | Path | None] = (), *, begins: bytes = b""
) -> None:
    """Refuse a file that could not be written, before hours of work go into its content.

    Args:
        path: what is to be written.
        others: files that must not be written over; None is passed over.
        begins: how a file that may be replaced begins.

    Raises:
        UsageError: where ``path`` is a folder, a device, a pipe or a link, in a folder that does
            not exist or is locked, or one of the others.
    """
    path = Path(path)
    for other in others:
        if other is not None and path.resolve() == Path(other).resolve():
            raise UsageError(f"{path}: is read or written already; name another file")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, a file name is needed")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UsageError(f"{path}: a link, a device or a pipe; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")
    if begins and path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(begins)).lower() != begins:
                raise UsageError(f"{path}: is there already and is of another kind; name a new one")
    check_name(path)


def write_atomically(
    path: str | Path, write: Callable[[BinaryIO], object], *, size: int | None = None
) -> None:
    """Write a file so that ``path`` holds the old content or the new, after a power loss too.

    The new content goes to a temporary file beside it, to the disk (fsync), and only then under
    its name; the folder is synced last, so that a save that has returned is not lost again.

    Args:
        path: the file.
        write: puts the content into the open file that it is given.
        size: bytes to be written as far as known, for the message where they do not fit.

    Raises:
        WriteError: naming path and reason; the old file is untouched.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        descriptor = _create(temporary)
        try:
            _write_and_sync(descriptor, write)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error, size) from error


def replace_text(path: str | Path, text: str) -> None:
    """Make ``text`` the content of ``path``, in UTF-8; as :func:`write_atomically`."""
    write_atomically(path, lambda file: file.write(text.encode()))


@contextlib.contextmanager
def keep_old(path: Path, kept: Path) -> Iterator[None]:
    """Around the replacing of ``path``: its old content becomes ``kept`` when the new one is safe.

    ``kept`` is not touched before that. Where the file system has no hard links, or there is no
    old content, nothing is kept.
    """
    temporary = _temporary(kept)
    linked = False
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(path)
        linked = True
    try:
        yield
        if linked:
            rename(temporary, kept)
    finally:
        # Also after the replacing: between two names of one file it does nothing.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of this module whose processes are gone; for the folder's one owner.

    A file of this process's own number is one of a process that had it before.
    """
    for path in folder.iterdir():
        found = re.fullmatch(r"\..+\.tmp-(\d+)", path.name)
        if found is None:
            continue
        process = int(found[1])
        if process == os.getpid() or not _is_alive(process):
            path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def _create(path: Path) -> int:
    """Open a file that was not there; one of an earlier process with our number may go."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    path.unlink(missing_ok=True)
    return os.open(path, flags, 0o666)


def _write_and_sync(descriptor: int, write: Callable[[BinaryIO], object]) -> None:
    file = os.fdopen(descriptor, "wb")
    try:
        write(file)
        file.flush()
        os.fsync(descriptor)
    finally:
        # After a failed write, closing tries once more and fails again.
        with contextlib.suppress(OSError):
            file.close()


def rename(temporary: Path, path: Path) -> None:
    """Give a file or folder its name, that of another file or of an empty folder.

    Raises:
        WriteError: naming path and reason.
    """
    try:
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError, size: int | None = None) -> WriteError:
    """What to raise where ``path``, of ``size`` bytes more, met ``error``."""
    text = f"cannot write {path}: {error.strerror or error}"
    if error.errno in _NO_SPACE:
        amounts = [] if size is None else [f"need {megabytes(size)}"]
        with contextlib.suppress(OSError):
            system = os.statvfs(path.parent)
            amounts.append(f"free {megabytes(system.f_bavail * system.f_frsize)}")
        text += f" ({', '.join(amounts)})" if amounts else ""
    return WriteError(error.errno, text)


def short_path(path: Path) -> Path:
    """``path`` from the working folder on where it lies in it, as somebody would type it."""
    working = Path.cwd()
    return path.relative_to(working) if path.is_relative_to(working) else path


def megabytes(size: int) -> str:
    """``size`` bytes for people."""
    return f"{size / 1e6:.0f} MB" if size >= 10e6 else f"{size / 1e6:.2g} MB"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
