# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from effdet.metrics.line_file import LineFile, cut_torn_line


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
