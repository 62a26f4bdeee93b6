# SPDX-License-Identifier: Apache-2.0
"""No fault costs a run its checkpoint: kills, power loss, full disks, changed bytes."""

import errno
import io
import itertools
import json
import os
import random
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from effdet import files
from effdet.errors import EffdetError, WeightsError
from effdet.training.run_folder import newest_checkpoint, save_epoch, save_last
from effdet.weights import load_checkpoint, save_checkpoint
from tests.reliability.saving import checkpoint, tensors_of
from tests.runs import program

KB = 1024


def saving(*words: object) -> Any:
    """What tests/reliability/saving.py finds; printed with the number of cases and the seed."""
    done = program("-m", "tests.reliability.saving", *map(str, words), check=False)
    if "NotAllowedError" in done.stderr:
        pytest.skip("a process may not trace another here")
    assert done.returncode == 0, done.stderr
    print(*words, done.stdout)
    return json.loads(done.stdout)


def step_in(folder: Path) -> int | None:
    """Step of the newest checkpoint, which must be whole; None where there is none."""
    found = newest_checkpoint(folder, lambda _: None)
    if found is None:
        return None
    step = int(found[1].training["step"])
    assert all((tensor == step).all() for tensor in tensors_of(found[1]))
    return step


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_kill_loses_tears_or_ages_the_checkpoint(count: int) -> None:
    figures = saving("kills", "--count", count, "--seed", count)
    ours, plain = figures["ours"], figures["torch.save"]
    assert ours["whole"] == count
    assert ours["temporary_file"] > count / 4  # they did come in the middle of saves
    assert plain["lost"] > count / 10  # and would do harm


@pytest.mark.skipif(sys.platform != "linux", reason="traces with Linux's ptrace")
def test_a_kill_at_any_system_call_of_a_save_leaves_a_good_checkpoint() -> None:
    figures = saving("calls", "--size", 100_000)
    ours, plain = figures["ours"], figures["torch.save"]
    assert ours["kills"] >= 30
    assert ours["whole"] == ours["kills"] + 1  # the last one ran to its end
    assert set(ours["found"]) == {"1", "2"}
    assert plain["lost"] > 0


class Disk:
    """Records what is done to the files of a folder, and what a power loss may leave of it.

    A file that was not synced may be empty, cut, of zeros or whole. An entry of the folder may be
    any that the name has had since the folder was synced, whatever the other names are.

    Args:
        syncs: which fsyncs work: of "file" and of "folder".
    """

    def __init__(self, patch: pytest.MonkeyPatch, syncs: tuple[str, ...]) -> None:
        self.syncs = syncs
        self.content: list[bytes] = []
        self.synced: list[bool] = []
        self.names: dict[str, list[int | None]] = {}
        self.opened: dict[int, int | None] = {}
        self.states: set[tuple[tuple[tuple[str, bytes], ...], int]] = set()
        self.done = 0
        self.calls: list[str] = []
        self._os = (os.open, os.fdopen, os.fsync, os.close, Path.replace, Path.unlink)
        self._link = Path.hardlink_to
        for name in ("open", "fdopen", "fsync", "close"):
            patch.setattr(os, name, getattr(self, name))
        disk = self
        patch.setattr(Path, "replace", lambda path, target: disk.replace(path, target))
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: disk.unlink(path, missing_ok))
        patch.setattr(Path, "hardlink_to", lambda path, target: disk.link(path, target))

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = self._os[0](path, flags, mode)
        if flags & os.O_CREAT:
            self.content.append(b"")
            self.synced.append(False)
            self.opened[descriptor] = len(self.content) - 1
            self.enter(Path(path).name, self.opened[descriptor])
        else:
            self.opened[descriptor] = None
        return descriptor

    def fdopen(self, descriptor: int, mode: str) -> BinaryIO:
        file, disk, inode = self._os[1](descriptor, mode), self, self.opened[descriptor]

        class Recorded(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def write(self, data: Any) -> int:
                disk.content[inode] += bytes(data)
                disk.synced[inode] = False
                disk.note("write")
                return int(file.write(data))

            def close(self) -> None:
                file.close()

            def flush(self) -> None:
                if not file.closed:
                    file.flush()

        return io.BufferedWriter(Recorded())

    def fsync(self, descriptor: int) -> None:
        inode = self.opened[descriptor]
        if inode is None and "folder" in self.syncs:
            self.names = {name: held[-1:] for name, held in self.names.items()}
        if inode is not None and "file" in self.syncs:
            self.synced[inode] = True
        self.note("fsync")

    def close(self, descriptor: int) -> None:
        self.opened.pop(descriptor, None)
        self._os[3](descriptor)

    def replace(self, path: Path, target: Path) -> Path:
        result = self._os[4](path, target)
        self.enter(target.name, self.names[path.name][-1])
        self.enter(path.name, None)
        return result

    def unlink(self, path: Path, missing_ok: bool) -> None:
        there = path.exists()
        self._os[5](path, missing_ok)
        if there:
            self.enter(path.name, None)

    def link(self, path: Path, target: Path) -> None:
        self._link(path, target)
        self.enter(path.name, self.names[target.name][-1])

    def enter(self, name: str, inode: int | None) -> None:
        self.names.setdefault(name, [None]).append(inode)
        self.note("entry")

    def note(self, call: str) -> None:
        """Add every state that the power may leave now."""
        self.calls.append(call)
        names = [name for name in self.names if not name.startswith(".")]
        for inodes in itertools.product(*(set(self.names[name]) for name in names)):
            held = {name: inode for name, inode in zip(names, inodes) if inode is not None}
            used = sorted(set(held.values()))
            for contents in itertools.product(*map(self.left_of, used)):
                of = dict(zip(used, contents))
                files_left = tuple((name, of[inode]) for name, inode in held.items())
                self.states.add((files_left, self.done))

    def left_of(self, inode: int) -> list[bytes]:
        whole = self.content[inode]
        if self.synced[inode]:
            return [whole]
        return [b"", whole[: len(whole) // 2], whole[:-1], bytes(len(whole)), whole]


def record(
    folder: Path, syncs: tuple[str, ...], save: Callable[[Path, int], None], count: int
) -> Disk:
    """Do saves 1 to ``count`` on a recording disk."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, syncs)
        for number in range(1, count + 1):
            save(folder, number)
            disk.done = number
            disk.note("done")
    return disk


def bad_states(disk: Disk, folder: Path) -> list[str]:
    """The states without a whole checkpoint that is at least of the last save that was done."""
    bad = []
    for number, (contents, done) in enumerate(sorted(disk.states)):
        place = folder / str(number)
        place.mkdir()
        for name, content in contents:
            (place / name).write_bytes(content)
        try:
            step = step_in(place) or 0
        except WeightsError as error:
            bad.append(f"{error} after {done}")
        else:
            if step < done:
                bad.append(f"{step} after {done}")
    return bad


def save_both(folder: Path, number: int) -> None:
    save_last(folder, checkpoint(number))
    save_epoch(folder, checkpoint(number), number, keep=1)


def save_epoch_only(folder: Path, number: int) -> None:
    save_epoch(folder, checkpoint(number), number, keep=1)


@pytest.mark.parametrize(
    "save", [lambda folder, k: save_last(folder, checkpoint(k)), save_epoch_only, save_both]
)
def test_a_power_loss_at_any_time_leaves_a_good_checkpoint(
    tmp_path: Path, save: Callable[[Path, int], None]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "states").mkdir()
    disk = record(tmp_path / "run", ("file", "folder"), save, 3)
    assert {"write", "fsync", "entry"} <= set(disk.calls)
    assert len(disk.states) >= 8
    assert bad_states(disk, tmp_path / "states") == []


@pytest.mark.parametrize("syncs", [("file",), ("folder",), ()])
def test_without_either_fsync_a_power_loss_does_harm(
    tmp_path: Path, syncs: tuple[str, ...]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "states").mkdir()
    disk = record(tmp_path / "run", syncs, lambda folder, k: save_last(folder, checkpoint(k)), 3)
    assert bad_states(disk, tmp_path / "states")


def refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        load_checkpoint(path)


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    path, generator = tmp_path / "a.pt", random.Random(0)
    save_checkpoint(checkpoint(1), path)
    content = path.read_bytes()
    for position in range(len(content)):
        broken = bytearray(content)
        broken[position] ^= generator.randrange(1, 256)
        refused(path, broken)
    # Of some bytes, and of all the digest's, each bit.
    for position in [*range(0, len(content), 97), *range(len(content) - 100, len(content))]:
        for bit in range(8):
            broken = bytearray(content)
            broken[position] ^= 1 << bit
            refused(path, broken)
    print(f"{len(content)} bytes, seed 0")


def test_a_file_cut_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(checkpoint(1), path)
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(WeightsError, match="damaged"):
            load_checkpoint(path)


def test_added_bytes_are_found(tmp_path: Path) -> None:
    path, generator = tmp_path / "a.pt", random.Random(0)
    save_checkpoint(checkpoint(1), path)
    content = path.read_bytes()
    for added in (b"\0", b"\n", b"0", content[-1:], content[-78:], content, bytes(100_000)):
        refused(path, content + added)
        refused(path, added + content)
        for _ in range(10):
            position = generator.randrange(1, len(content))
            refused(path, content[:position] + added + content[position:])


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes: a disk that is full there (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_disk(size: int, where: str) -> Iterator[None]:
    """Writing or syncing more than ``size`` bytes of a file fails with ENOSPC."""
    fdopen, fsync = os.fdopen, os.fsync

    def full() -> OSError:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def limited(descriptor: int, mode: str) -> BinaryIO:
        file = fdopen(descriptor, mode)

        class Limited(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def write(self, data: Any) -> int:
                if file.tell() + len(data) > size:
                    raise full()
                return int(file.write(data))

            def flush(self) -> None:
                file.flush()

            def close(self) -> None:
                file.close()

        return io.BufferedWriter(Limited()) if where == "write" else file

    def failing(descriptor: int) -> None:
        if where == "fsync" and os.fstat(descriptor).st_size > size:
            raise full()
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdopen", limited)
        patch.setattr(os, "fsync", failing)
        yield


def run_with_two_saves(folder: Path) -> list[str]:
    """Save 1 and 2 (400 kB each); the names in the folder."""
    for number in (1, 2):
        save_last(folder, checkpoint(number, 400_000))
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("fault", ["limit", "write", "fsync"])
def test_a_disk_full_at_any_of_20_places_keeps_the_last_save(tmp_path: Path, fault: str) -> None:
    names = run_with_two_saves(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    size = (tmp_path / "last.pt").stat().st_size
    for k in range(20):
        room = size * k // 20
        full = file_size_limit(room) if fault == "limit" else full_disk(room, fault)
        with full, pytest.raises(files.WriteError) as caught:
            save_last(tmp_path, checkpoint(3, 400_000))
        code = errno.EFBIG if fault == "limit" else errno.ENOSPC
        assert caught.value.errno == code
        assert caught.value.exit_code == 1
        message = f"cannot write {tmp_path / 'last.pt'}: {os.strerror(code)} (need 0.4 MB, free "
        assert str(caught.value).startswith(message)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert step_in(tmp_path) == 2
    save_last(tmp_path, checkpoint(3, 400_000))  # when there is space again
    assert step_in(tmp_path) == 3


def test_a_disk_that_became_read_only_keeps_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run_with_two_saves(tmp_path)
    really_open = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(files.WriteError) as caught:
        save_last(tmp_path, checkpoint(3, 400_000))
    assert str(caught.value) == f"cannot write {tmp_path / 'last.pt'}: Read-only file system"
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert step_in(tmp_path) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_keeps_the_last_save(tmp_path: Path) -> None:
    run_with_two_saves(tmp_path)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(files.WriteError, match=r"last\.pt: Permission denied"):
            save_last(tmp_path, checkpoint(3, 400_000))
        assert step_in(tmp_path) == 2
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("kind", ["file", "missing"])
def test_an_output_that_is_no_folder_is_told(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    if kind == "file":
        folder.write_text("here already")
    with pytest.raises(EffdetError) as caught:
        save_last(folder, checkpoint(1))
    reason = "Not a directory" if kind == "file" else "No such file or directory"
    assert str(caught.value) == f"cannot write {folder / 'last.pt'}: {reason}"
    assert not folder.exists() or folder.read_text() == "here already"
