# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from effdet import processes
from effdet.files import whole_folder
from effdet.processes import process_mark


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(program) as process:
        yield process
        process.kill()


def part_of(folder: Path, mark: str) -> Path:
    """A folder that the process with that mark fills for ``folder``."""
    part = folder.with_name(f".{folder.name}.{mark}.0123abcd.part")
    part.mkdir()
    (part / "file").touch()
    return part


def fill(folder: Path) -> None:
    with whole_folder.whole_folder(folder, "no") as part:
        (part / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_what_a_dead_process_has_left_goes_and_what_a_living_one_fills_does_not(
    tmp_path: Path, child: subprocess.Popen[bytes]
) -> None:
    mark = process_mark(child.pid)
    part, other = part_of(tmp_path / "out", mark), part_of(tmp_path / "out.x", mark)
    own = part_of(tmp_path / "out", process_mark(os.getpid()))
    fill(tmp_path / "out")
    assert part.is_dir()
    child.kill()
    child.wait()
    (tmp_path / "out" / "file").unlink()
    fill(tmp_path / "out")
    assert not part.exists()
    assert other.is_dir()  # for another folder
    assert own.is_dir()


def test_another_process_that_got_the_number_does_not_save_it(tmp_path: Path) -> None:
    _, start, machine = process_mark(os.getpid()).split("-")
    part = part_of(tmp_path / "out", f"{os.getpid()}-{int(start) - 1}-{machine}")
    fill(tmp_path / "out")
    assert not part.exists()


@pytest.mark.parametrize("mark", ["1-5-00000000", "999999999-5-00000000", "0123abcd", "7"])
def test_what_may_be_of_a_living_process_elsewhere_stays(mark: str, tmp_path: Path) -> None:
    part = part_of(tmp_path / "out", mark)
    fill(tmp_path / "out")
    assert part.is_dir()


def test_where_the_machine_is_unknown_nothing_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = part_of(tmp_path / "out", "999999999-5-00000000")
    monkeypatch.setattr(processes, "machine_id", lambda: "")
    assert process_mark(7) == "7"
    fill(tmp_path / "out")
    assert part.is_dir()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    machine = process_mark(os.getpid()).rpartition("-")[2]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    link = tmp_path / f".out.999999999-5-{machine}.0123abcd.part"
    link.symlink_to(tmp_path / "mine")
    fill(tmp_path / "out")
    assert (tmp_path / "mine" / "file").is_file()
