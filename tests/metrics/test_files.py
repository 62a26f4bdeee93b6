# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from effdet.files import replace_text
from effdet.metrics.files import LineFile, cut_torn_line


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", b""),
        (b"a\nb\n", b"a\nb\n"),
        (b"a\nb", b"a\n"),
        (b"torn", b""),
        (b"a\n" + b"x" * 200_000, b"a\n"),
        (b"x" * 200_000, b""),
    ],
)
def test_a_torn_line_is_cut_and_whole_ones_stay(
    tmp_path: Path, content: bytes, kept: bytes
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    cut_torn_line(path)
    assert path.read_bytes() == kept


def test_a_file_that_is_not_there_has_no_torn_line(tmp_path: Path) -> None:
    cut_torn_line(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")
    file.append("one")
    assert file.path.read_text() == "one\n"
    file.close()
    file.close()
    file.append("two")
    assert file.path.read_text() == "one\ntwo\n"


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LineFile(tmp_path / "lines")
    file.append("one")
    write = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) < 8:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:5])  # a disk that fills up writes a part

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            file.append("0123456789")
    assert file.path.read_text() == "one\n"
    file.append("two")
    assert file.path.read_text() == "one\ntwo\n"


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
