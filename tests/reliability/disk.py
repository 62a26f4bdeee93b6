# SPDX-License-Identifier: Apache-2.0
"""What a power loss may leave of a run folder, worked out from the system calls of its saves."""

import io
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from effdet.errors import WeightsError
from effdet.training.run_folder import newest_checkpoint
from tests.reliability.saving import tensors_of


def step_in(folder: Path) -> int | None:
    """Step of the newest checkpoint, which must be whole; None where there is none."""
    found = newest_checkpoint(folder, lambda _: None)
    if found is None:
        return None
    step = int(found[1].training["step"])
    assert all((tensor == step).all() for tensor in tensors_of(found[1]))
    return step


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
        file, disk, opened = self._os[1](descriptor, mode), self, self.opened[descriptor]
        assert opened is not None, "only new files are written to"
        inode: int = opened

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
    place: Path, syncs: tuple[str, ...], save: Callable[[Path, int], None], count: int
) -> Disk:
    """Do saves 1 to ``count`` in a new folder below ``place``, and note what may be left of it."""
    folder = place / "run"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, syncs)
        for number in range(1, count + 1):
            save(folder, number)
            disk.done = number
            disk.note("done")
    return disk


def bad_states(disk: Disk) -> list[str]:
    """The states without a whole checkpoint that is at least of the last save that was done."""
    bad = []
    for contents, done in sorted(disk.states):
        with tempfile.TemporaryDirectory() as folder:
            for name, content in contents:
                (Path(folder) / name).write_bytes(content)
            try:
                step = step_in(Path(folder)) or 0
            except WeightsError as error:
                bad.append(f"{error} after {done}")
            else:
                if step < done:
                    bad.append(f"{step} after {done}")
    return bad
