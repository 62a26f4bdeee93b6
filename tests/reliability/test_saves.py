# SPDX-License-Identifier: Apache-2.0
"""No fault costs a run its checkpoint: kills, power loss, full disks, changed bytes."""

import errno
import io
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
from effdet.training.run_folder import save_epoch, save_last
from effdet.weights import load_checkpoint, save_checkpoint
from tests.any_weights import any_weights
from tests.reliability.disk import bad_states, record, step_in
from tests.reliability.saving import checkpoint
from tests.runs import program

KB = 1024


@pytest.fixture(autouse=True)
def _any_weights() -> Iterator[None]:
    with any_weights():
        yield


def saving(*words: object) -> Any:
    """What tests/reliability/saving.py finds; printed with the number of cases and the seed."""
    done = program("-m", "tests.reliability.saving", *map(str, words), check=False)
    if "NotAllowedError" in done.stderr:
        pytest.skip("a process may not trace another here")
    assert done.returncode == 0, done.stderr
    print(*words, done.stdout)
    return json.loads(done.stdout)


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
    disk = record(tmp_path, ("file", "folder"), save, 3)
    assert {"write", "fsync", "entry"} <= set(disk.calls)
    assert len(disk.states) >= 8
    print(f"{len(disk.states)} states")
    assert bad_states(disk) == []


@pytest.mark.parametrize("syncs", [("file",), ("folder",), ()])
def test_without_either_fsync_a_power_loss_does_harm(
    tmp_path: Path, syncs: tuple[str, ...]
) -> None:
    disk = record(tmp_path, syncs, lambda folder, k: save_last(folder, checkpoint(k)), 3)
    assert bad_states(disk)


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
        with pytest.raises(WeightsError, match="damaged" if length else "an empty file"):
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
