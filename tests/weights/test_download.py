# SPDX-License-Identifier: Apache-2.0
"""Weights are fetched once, verified and kept; names and paths lead to them."""

import errno
import hashlib
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from effdet import cli
from effdet.commands import download as command
from effdet.errors import UsageError, WeightsError
from effdet.files import WriteError
from effdet.weights import download
from effdet.weights.download import fetch, format_releases, resolve
from effdet.weights.releases import RELEASES
from tests.weights.fetching import CONTENT, NOTE, closed_port, fail, read_note, release_at, visible
from tests.weights.file_server import Handler, Server, Site, full

pytestmark = pytest.mark.usefixtures("folder")


def test_a_release_is_fetched_once_and_needs_no_network_after_that(
    site: Site, server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = release_at(site.url)
    path = fetch(release)
    assert path == folder / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert visible(folder) == ["weights.pth", NOTE]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        f"effdet: fetching tiny (0.2 MB; Apache-2.0) from {site.url}",
        f"effdet: {path} (0.2 MB) has the published sha256",
    ]
    server.close()
    assert fetch(release) == path
    assert len(site.requests) == 1
    assert capsys.readouterr().err == ""


def test_what_was_fetched_is_noted_beside_it(site: Site, folder: Path) -> None:
    fetch(release_at(site.url))
    note = read_note(folder)
    assert note["url"] == site.url
    assert note["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert (note["name"], note["licence"], note["size"]) == ("tiny", "Apache-2.0", len(CONTENT))
    assert note["verified"].endswith("+00:00")


def test_a_verified_file_is_not_hashed_again_until_it_changes(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = release_at(site.url)
    path = fetch(release)
    with monkeypatch.context() as patch:
        patch.setattr(download, "sha256_of", fail)
        fetch(release)
    os.utime(path, ns=(0, 0))
    fetch(release)
    assert read_note(folder)["modified_ns"] == 0
    assert len(site.requests) == 1


def test_a_file_put_there_by_hand_is_verified_and_taken(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "weights.pth").write_bytes(CONTENT)
    release = release_at(f"http://127.0.0.1:{closed_port()}/weights.pth")
    assert fetch(release) == folder / "weights.pth"
    assert read_note(folder)["sha256"].startswith(release.sha256)


def test_a_damaged_file_is_fetched_again_and_stays_where_that_fails(
    site: Site, server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = release_at(site.url)
    path = fetch(release)
    damaged = CONTENT[:-1] + b"?"
    path.write_bytes(damaged)
    assert fetch(release).read_bytes() == CONTENT
    assert f"{path} is not the published file; it is fetched again" in capsys.readouterr().err
    server.close()
    path.write_bytes(damaged)
    with pytest.raises(WeightsError, match="cannot reach"):
        fetch(release)
    assert path.read_bytes() == damaged


def test_of_two_processes_one_fetches_and_the_other_waits(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def slowly(handler: Handler) -> None:
        site.release.wait(0.5)
        full(handler)

    site.script = [slowly, slowly]
    monkeypatch.setattr(download, "_PATIENCE", 0.1)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch, args=(release_at(site.url),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (folder / "weights.pth").read_bytes() == CONTENT
    assert len(site.requests) == 1
    assert capfd.readouterr().err.count("another process fetches weights.pth; waiting") == 1


def test_without_locks_each_process_has_its_own_part(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder.mkdir(parents=True)
    (folder / "weights.pth.part").write_bytes(b"another process's")
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert (folder / "weights.pth.part").read_bytes() == b"another process's"


def test_a_read_only_cache_that_has_the_file_is_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    (folder / "weights.pth").write_bytes(CONTENT)
    opened = os.open

    def read_only(path: Path, flags: int, *rest: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    url = f"http://127.0.0.1:{closed_port()}/weights.pth"
    assert fetch(release_at(url)) == folder / "weights.pth"
    assert visible(folder) == ["weights.pth"]


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EFFDET_CACHE", str(tmp_path / "file"))
    with pytest.raises(WriteError) as caught:
        fetch(release_at("https://127.0.0.1/weights.pth"))
    assert str(caught.value) == (
        f"cannot write {tmp_path / 'file' / 'weights'}: Not a directory; set EFFDET_CACHE to a "
        "folder that can be written"
    )


def test_a_disk_without_room_is_told_before_anything_is_written(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(WriteError, match=r"No space left on device \(need 0\.2 MB, free .*\)"):
        fetch(release_at(site.url))
    assert (folder / "weights.pth.part").stat().st_size == 0


def test_a_disk_that_fills_up_keeps_what_there_is_for_a_later_run(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    class Full:
        """A file on a disk with room for two blocks."""

        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 2

        def write(self, block: bytes) -> int:
            if self.room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= 1
            return int(self.file.write(block))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def full_disk(path: Path, mode: str = "r", *rest: Any) -> Any:
        file = opened(path, mode, *rest)
        return Full(file) if mode == "ab" else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full_disk)
        with pytest.raises(WriteError, match=r"weights\.pth\.part: No space left on device"):
            fetch(release_at(site.url))
    assert len(site.requests) == 1  # it is the disk, not the network
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=131072-"]


def test_a_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "fetch", fail)
    (tmp_path / "tf_efficientdet_d0").mkdir()
    (tmp_path / "model.index").touch()
    assert resolve("tf_efficientdet_d0") == Path("tf_efficientdet_d0")
    assert resolve(tmp_path / "model") == tmp_path / "model"


def test_a_name_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "fetch", lambda release: Path(release.file_name))
    expected = Path("tf_efficientdet_d0_34-f153e0cf.pth")
    assert resolve("tf_efficientdet_d0") == expected


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("runs/best.pt", WeightsError, "runs/best.pt: no such weights file"),
        ("mine.pth", WeightsError, "mine.pth: no such weights file"),
        (
            "/data/tf_efficientdet_d0_34-f153e0cf.pth",
            WeightsError,
            "no such weights file; the name tf_efficientdet_d0 fetches the release of that name",
        ),
        (
            "tf_eficientdet_d0",
            UsageError,
            "'tf_eficientdet_d0' is no file and no public release; did you mean tf_efficientdet_d0",
        ),
        (
            "efficientdet_d2",
            UsageError,
            "; there are tf_efficientdet_d2, tf_efficientdet_d2_ap (see effdet download --list)",
        ),
        ("https://host/a.pth", UsageError, "addresses are not opened; fetch it yourself and give"),
        (
            RELEASES["tf_efficientdet_d0"].url,
            UsageError,
            "addresses are not opened; the name tf_efficientdet_d0 fetches",
        ),
    ],
)
def test_weights_that_are_not_there_are_told_with_what_to_do(
    text: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "fetch", fail)
    with pytest.raises(error) as caught:
        resolve(text)
    assert message in str(caught.value)


def test_the_table_names_every_release_and_those_that_are_here(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / RELEASES["tf_efficientdet_d0_ap"].file_name).touch()
    lines = format_releases().splitlines()
    rows = {line.split()[0]: line for line in lines[1 : 1 + len(RELEASES)]}
    assert list(rows) == list(RELEASES)
    assert [name for name, line in rows.items() if line.endswith(" yes")] == [
        "tf_efficientdet_d0_ap"
    ]
    assert rows["tf_efficientdet_d0_ap"].split() == [
        "tf_efficientdet_d0_ap", "efficientdet_d0", "34.8", "[-1,", "1]", "same", "Apache-2.0",
        "rwightman", "yes",
    ]  # fmt: skip


def test_the_command_prints_where_files_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "fetch", lambda release: Path("/cache") / release.file_name)
    cli.run_command(["download", "tf_efficientdet_d0", "tf_efficientdet_d1"])
    assert capsys.readouterr().out.splitlines() == [
        "/cache/tf_efficientdet_d0_34-f153e0cf.pth",
        "/cache/tf_efficientdet_d1_40-a30f94af.pth",
    ]
    cli.run_command(["download", "--list"])
    assert "tf_efficientdet_lite0 " in capsys.readouterr().out


def test_nothing_is_fetched_where_one_name_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "fetch", fail)
    with pytest.raises(UsageError, match="no public release 'tf_efficientdet_d9'; did you mean"):
        cli.run_command(["download", "tf_efficientdet_d0", "tf_efficientdet_d9"])
    with pytest.raises(UsageError, match="give NAMES of public releases, coco2017, or --list"):
        cli.run_command(["download"])
