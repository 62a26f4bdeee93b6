# SPDX-License-Identifier: Apache-2.0
import errno
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from effdet.errors import UsageError
from effdet.files import (
    WriteError,
    check_output,
    check_writable,
    keep_old,
    remove_leftovers,
    replace_text,
    write_atomically,
)
from effdet.files.folder_lock import FolderLock

ROOT = Path(__file__).parents[2]
# Takes the lock of a folder, forks a child that lives on, says so and waits.
HOLDER = """
import os, sys, time
from pathlib import Path
from effdet.files.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_written_file_has_its_content_and_the_users_mode(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "a", b"one")
        write(tmp_path / "a", b"two")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask
    assert names(tmp_path) == ["a"]


def test_the_content_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, list[str], int]] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        seen.append((stat.S_ISDIR(status.st_mode), names(tmp_path), size))

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "a", b"one")
    assert seen == [(False, [f".a.tmp-{os.getpid()}"], 3), (True, ["a"], 0)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_whatever_goes_wrong_the_old_content_stays(
    tmp_path: Path, error: type[BaseException]
) -> None:
    write(tmp_path / "a", b"old")

    def half(file: Any) -> None:
        file.write(b"half")
        raise error("no")

    with pytest.raises(error, match="no"):
        write_atomically(tmp_path / "a", half)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / f".a.tmp-{os.getpid()}").symlink_to(tmp_path / "precious")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    write(tmp_path / "a", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert names(tmp_path) == ["a", "precious"]
    assert not (tmp_path / "a").is_symlink()


def test_a_file_that_an_earlier_process_of_our_number_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".a.tmp-{os.getpid()}").write_bytes(b"half")
    write(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]


def test_a_folder_of_that_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(WriteError, match=r"cannot write .*/a: Is a directory$"):
        write(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("size", "need"), [(None, ""), (62_000_000, "need 62 MB, "), (4000, "need 0.004 MB, ")]
)
def test_a_full_disk_is_told_with_what_is_needed_and_free(
    tmp_path: Path, size: int | None, need: str
) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WriteError) as caught:
        write_atomically(tmp_path / "a", full, size=size)
    message = str(caught.value)
    start = f"cannot write {tmp_path / 'a'}: No space left on device ({need}free "
    assert message.startswith(start)
    assert message.endswith(" MB)")
    assert caught.value.errno == errno.ENOSPC


def test_a_write_error_keeps_text_and_number_on_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(WriteError(errno.EROFS, "cannot write a: why")))
    assert isinstance(error, OSError)
    assert (str(error), error.errno, error.exit_code) == ("cannot write a: why", errno.EROFS, 1)


def test_a_file_is_replaced_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")
    seen = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((path.read_text(), self.read_text()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    replace_text(path, "new")
    assert seen == [("old", "new")]
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replacement_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        replace_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_content_is_kept_once_the_new_is_written(tmp_path: Path) -> None:
    path, kept = tmp_path / "a", tmp_path / "before"
    for content in (b"one", b"two", b"three"):
        with keep_old(path, kept):
            write(path, content)
    assert path.read_bytes() == b"three"
    assert kept.read_bytes() == b"two"
    with pytest.raises(ValueError, match="no"), keep_old(path, kept):
        raise ValueError("no")
    assert kept.read_bytes() == b"two"
    assert names(tmp_path) == ["a", "before"]


def test_two_names_of_one_file_leave_nothing_behind(tmp_path: Path) -> None:
    path, kept = tmp_path / "a", tmp_path / "before"
    path.write_bytes(b"one")
    kept.hardlink_to(path)
    with keep_old(path, kept):
        write(path, b"two")
    assert kept.read_bytes() == b"one"
    assert names(tmp_path) == ["a", "before"]


def test_without_hard_links_the_new_content_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    for content in (b"one", b"two"):
        with keep_old(tmp_path / "a", tmp_path / "before"):
            write(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == b"two"
    assert names(tmp_path) == ["a"]


def test_only_leftovers_of_dead_processes_are_deleted(tmp_path: Path) -> None:
    alive, dead = os.getppid(), dead_process()
    kept = [f".a.tmp-{alive}", ".a.tmp-", ".tmp-1x", f"a.tmp-{dead}", "a", ".lock"]
    for name in [*kept, f".a.tmp-{dead}", f".b.pt.tmp-{os.getpid()}", f".c.tmp-{2**22 + 1}"]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(kept)


def test_a_folder_to_write_to_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--output .*/file cannot be written to: Not a directory"):
        check_writable(tmp_path / "file")
    with pytest.raises(UsageError, match=r"/no cannot be written to: No such file or directory"):
        check_writable(tmp_path / "no")

    def read_only(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(UsageError, match="cannot be written to: Read-only file system"):
        check_writable(tmp_path)


class Holder:
    """Another process that has the lock of ``folder``, and a child of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", HOLDER, str(folder)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.kill()
        os.kill(self.child, signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    holder = Holder(tmp_path)
    yield holder
    holder.end()


def test_a_second_run_on_a_folder_is_refused_with_the_name_of_the_first(
    tmp_path: Path, holder: Holder
) -> None:
    name = f"{holder.process.pid}@{socket.gethostname()}"
    start = time.monotonic()
    with pytest.raises(UsageError) as caught, FolderLock(tmp_path, patience=0.2):
        pass
    assert time.monotonic() - start >= 0.2
    assert str(caught.value) == (
        f"{tmp_path} is in use by process {name}; wait for it, stop it, or name another folder"
    )


def test_a_killed_run_holds_its_folder_no_more_though_a_child_of_it_lives(
    tmp_path: Path, holder: Holder
) -> None:
    holder.kill()
    os.kill(holder.child, 0)  # it is still there
    # Between fork and exec the child holds it for a moment.
    with FolderLock(tmp_path) as lock:
        assert lock.held
        owner = (tmp_path / ".lock").read_text()
        assert owner == f"{os.getpid()}@{socket.gethostname()}\n"
    assert not lock.held


def test_a_run_waits_a_moment_for_the_one_before(tmp_path: Path, holder: Holder) -> None:
    subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {holder.process.pid}"])
    with FolderLock(tmp_path) as lock:
        assert lock.held


def test_a_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with FolderLock(tmp_path, patience=0):
            with pytest.raises(UsageError), FolderLock(tmp_path, patience=0):
                pass
            (tmp_path / ".lock").read_text()  # reading does not free it
            with pytest.raises(UsageError), FolderLock(tmp_path, patience=0):
                pass


def test_locks_of_other_names_do_not_meet(tmp_path: Path) -> None:
    with FolderLock(tmp_path, patience=0), FolderLock(tmp_path, patience=0, name=".a") as lock:
        assert lock.held
        with pytest.raises(UsageError), FolderLock(tmp_path, patience=0, name=".a"):
            pass


def test_a_file_system_without_locks_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with FolderLock(tmp_path) as lock:
        assert not lock.held


def test_a_file_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .*none"):
        check_output(tmp_path / "none" / "metrics.json")
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path)
    check_output(tmp_path / "metrics.json")


def test_only_a_file_is_written_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "file.json")
    for name in ("pipe.json", "link.json"):
        with pytest.raises(UsageError, match="a link, a device or a pipe"):
            check_output(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be written: File name too long"):
        check_output(tmp_path / ("x" * 250))
    (tmp_path / "file.json").write_text("old")
    check_output(tmp_path / "file.json")
    assert (tmp_path / "file.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "file.json", "link.json", "pipe.json"
    ]  # fmt: skip
