# SPDX-License-Identifier: Apache-2.0
import errno
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from effdet import cli, web
from effdet.commands import download as command
from effdet.errors import UsageError, WeightsError
from effdet.files import WriteError
from effdet.weights import download
from effdet.weights.download import fetch, format_releases, resolve
from effdet.weights.releases import RELEASES, Release
from tests.weights.file_server import (
    Handler,
    Server,
    Site,
    cut,
    full,
    part,
    redirect,
    silence,
    stall,
    status,
    whole,
)

CONTENT = random.Random(0).randbytes(200_000)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
NOTE = "weights.pth.json"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights of an empty cache; waiting between tries takes no time."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("EFFDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "PAUSES", (0.0,) * 4)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(Site(CONTENT))
    yield server
    server.close()


@pytest.fixture
def site(server: Server) -> Site:
    return server.site


def release_at(url: str, content: bytes = CONTENT, **changes: Any) -> Release:
    """A release whose first eight digits are published."""
    values: dict[str, Any] = {
        "name": "tiny",
        "url": url,
        "sha256": hashlib.sha256(content).hexdigest()[:8],
        "model": "efficientdet_lite0",
        "source": "rwightman",
    }
    return Release(**(values | changes))


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def read_note(folder: Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((folder / NOTE).read_text())
    return note


def fail(*_: object) -> None:
    raise AssertionError("not to be called")


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


def test_a_broken_connection_goes_on_where_it_broke_off(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.script = [cut(70_000)]
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=70000-"]
    assert site.requests[1].headers["If-Range"] == '"one"'
    text = capsys.readouterr().err
    assert "broke off: after 0.07 MB of 0.2 MB; trying again in 0 s" in text
    assert "fetching tiny (0.2 MB, 0.07 MB are here; Apache-2.0)" in text


def test_tries_are_counted_anew_after_each_that_brought_something(site: Site) -> None:
    def a_little_more(handler: Handler) -> None:
        start = int((handler.headers["Range"] or "bytes=0-")[6:-1])
        end, total = start + 20_000, len(CONTENT)
        handler.send(
            206 if start else 200,
            CONTENT[start:end],
            content_range=f"bytes {start}-{total - 1}/{total}",
            content_length=total - start,
            etag=site.tag,
        )

    site.script = [a_little_more] * 10
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert len(site.requests) == 10


def test_a_later_run_goes_on_with_what_an_earlier_one_left(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "PAUSES", ())
    site.script = [cut(70_000)]
    with pytest.raises(WeightsError, match="broke off"):
        fetch(release_at(site.url))
    assert visible(folder) == ["weights.pth.part", "weights.pth.part.json"]
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=70000-"]
    assert visible(folder) == ["weights.pth", NOTE]


def test_all_bytes_of_an_earlier_run_need_no_request(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "sha256_of", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(release_at(site.url))
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_a_server_that_gives_no_parts_begins_anew(site: Site) -> None:
    site.script = [cut(70_000), whole]
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=70000-"]


@pytest.mark.parametrize(
    ("second", "requests"),
    [(full, 2), (part(70_000), 3), (status(416), 3), (part(60_000), 3)],
    ids=["asked", "ignored", "refused", "another part"],
)
def test_parts_of_two_versions_are_not_joined(
    site: Site, second: Callable[[Handler], None], requests: int
) -> None:
    new = random.Random(1).randbytes(150_000)

    def changed(handler: Handler) -> None:
        site.content, site.tag = new, '"two"'
        second(handler)

    site.script = [cut(70_000), changed]
    assert fetch(release_at(site.url, new)).read_bytes() == new
    assert site.ranges[:2] == [None, "bytes=70000-"]
    assert len(site.requests) == requests
    assert requests == 2 or site.ranges[2] is None


def test_another_part_than_was_asked_for_is_not_joined(site: Site) -> None:
    site.script = [cut(70_000), part(60_000)]
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=70000-", None]


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_bytes_of_which_nobody_knows_the_version_are_fetched_anew(
    site: Site, tag: str | None
) -> None:
    site.tag = tag
    site.script = [cut(70_000)]
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert site.ranges == [None, None]


def test_the_date_of_change_tells_the_version_where_there_is_no_tag(site: Site) -> None:
    date = "Tue, 01 Sep 2020 00:00:00 GMT"

    def dated(handler: Handler) -> None:
        body = CONTENT[:70_000]
        handler.send(200, body, content_length=len(CONTENT), last_modified=date)

    def rest(handler: Handler) -> None:
        which = f"bytes 70000-{len(CONTENT) - 1}/{len(CONTENT)}"
        handler.send(206, CONTENT[70_000:], content_range=which, last_modified=date)

    site.script = [dated, rest]
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert site.requests[1].headers["If-Range"] == date


def test_bytes_of_another_address_are_not_gone_on_with(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "PAUSES", ())
    site.script = [cut(70_000)]
    with pytest.raises(WeightsError, match="broke off"):
        fetch(release_at(site.url))
    fetch(release_at(site.url.replace("/weights", "/moved/weights")))
    assert site.ranges == [None, None]


@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_with_a_wrong_hash_is_deleted_and_said_so(
    site: Site, folder: Path, digits: int
) -> None:
    site.content = b"not the weights"
    expected = hashlib.sha256(CONTENT).hexdigest()[:digits]
    found = hashlib.sha256(site.content).hexdigest()
    more = "" if digits == 64 else "..."
    with pytest.raises(WeightsError) as caught:
        fetch(release_at(site.url, sha256=expected))
    assert str(caught.value) == (
        f"tiny: what {site.url} gives is not the published file and was deleted: "
        f"expected sha256 {expected}{more}, found {found}"
    )
    assert visible(folder) == []


@pytest.mark.parametrize(("code", "requests"), [(404, 1), (403, 1), (500, 5), (503, 5)])
def test_an_answer_that_is_an_error_is_told_and_tried_again_where_that_helps(
    site: Site, folder: Path, code: int, requests: int
) -> None:
    site.script = [status(code)] * 9
    with pytest.raises(WeightsError) as caught:
        fetch(release_at(site.url))
    text = str(caught.value)
    assert text.startswith(f"tiny: 127.0.0.1:{site.port} answers {code} ")
    advice = f"fetch {site.url} elsewhere and put it at {folder / 'weights.pth'}, or give the path"
    assert text.endswith(f"; {advice} of the file instead of the name")
    assert "\n" not in text
    assert len(site.requests) == requests
    assert visible(folder) == []


def test_a_server_that_was_busy_is_asked_again(site: Site) -> None:
    site.script = [status(503), status(429)]
    assert fetch(release_at(site.url)).read_bytes() == CONTENT


def test_an_address_that_gave_something_is_asked_again_whatever_it_says(site: Site) -> None:
    site.script = [cut(70_000), status(403)]  # as where a signed address has become too old
    assert fetch(release_at(site.url)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (http.client.RemoteDisconnected(), True),
        (TimeoutError(), True),
        (ssl.SSLError("bad record"), True),
        (URLError(ConnectionResetError()), True),
        (URLError(ssl.SSLError("handshake")), True),
        (URLError(TimeoutError()), False),  # of connecting: somebody drops what is sent
        (URLError(ssl.SSLCertVerificationError()), False),
        (URLError(socket.gaierror()), False),
        (URLError(ConnectionRefusedError()), False),
        (URLError(OSError(errno.ENETUNREACH, "")), False),
    ],
    ids=repr,
)
def test_only_what_may_pass_is_tried_again(error: Exception, expected: bool) -> None:
    assert web._may_pass(error) == expected


def test_without_a_network_it_is_said_at_once_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", fail)
    address = f"127.0.0.1:{closed_port()}"
    url = f"http://{address}/weights.pth"
    with pytest.raises(WeightsError) as caught:
        fetch(release_at(url))
    assert str(caught.value) == (
        f"tiny: cannot reach {address}: Connection refused; fetch {url} elsewhere and put it at "
        f"{folder / 'weights.pth'}, or give the path of the file instead of the name"
    )
    assert caught.value.exit_code == 4


def test_a_host_without_an_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(time, "sleep", fail)
    with pytest.raises(WeightsError, match=r"cannot reach github\.com: Name or service not known"):
        fetch(RELEASES["tf_efficientdet_d0"])


def test_a_server_that_says_nothing_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.1)
    site.script = [silence] * 9
    with pytest.raises(WeightsError, match=r"no answer for 0\.1 s"):
        fetch(release_at(site.url))
    assert len(site.requests) == 5


def test_a_connection_that_stands_still_is_made_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    site.script = [stall(131_072)]
    start = time.monotonic()
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert time.monotonic() - start < 2
    assert site.ranges == [None, "bytes=131072-"]


def test_a_server_that_promises_more_than_it_has_is_given_up(site: Site, folder: Path) -> None:
    site.script = [cut(len(CONTENT) - 1)] * 9
    with pytest.raises(WeightsError, match=r"the connection to .* broke off: after"):
        fetch(release_at(site.url))
    assert len(site.requests) == 5
    assert not (folder / "weights.pth").exists()


def test_a_server_that_promises_less_than_it_has_gives_a_wrong_hash(site: Site) -> None:
    site.script = [lambda handler: handler.send(200, CONTENT, content_length=1000)]
    with pytest.raises(WeightsError, match="not the published file and was deleted"):
        fetch(release_at(site.url))


def test_a_server_may_leave_out_how_much_there_is(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.script = [lambda handler: handler.send(200, CONTENT, content_length=None)] * 2
    release = release_at(site.url)
    assert fetch(release).read_bytes() == CONTENT
    assert "fetching tiny (of unknown size; " in capsys.readouterr().err


def test_an_answer_without_an_end_does_not_fill_the_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_SIZE", 100_000)
    with pytest.raises(WeightsError, match=r"the file there has more than 0\.1 MB"):
        fetch(release_at(site.url))


@pytest.mark.parametrize("target", ["/elsewhere", "weights.pth"])
def test_a_redirect_is_followed(site: Site, target: str) -> None:
    site.script = [redirect(target)]
    assert fetch(release_at(site.url)).read_bytes() == CONTENT
    assert len(site.requests) == 2


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://host/file", "http://example.com/x?key=1", "data:,x"]
)
def test_a_redirect_to_anything_but_https_is_refused(site: Site, target: str) -> None:
    site.script = [redirect(target)]
    shown = target.split("?")[0]
    with pytest.raises(WeightsError, match=f"sends on to {shown}, which is not an https address"):
        fetch(release_at(site.url))
    assert len(site.requests) == 1


def test_https_is_never_left_for_http() -> None:
    assert web._is_safe("https://b/file", "https://a/file")
    assert not web._is_safe("http://b/file", "https://a/file")
    assert not web._is_safe("http://127.0.0.1/file", "https://a/file")


@pytest.mark.parametrize("url", ["http://example.com/weights.pth", "file:///etc/passwd", "a/b"])
def test_only_https_is_opened(url: str) -> None:
    with pytest.raises(WeightsError, match="is not an https address"):
        fetch(release_at(url))


def test_the_proxy_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{site.port}")
    url = f"http://localhost:{closed_port()}/weights.pth"
    assert fetch(release_at(url)).read_bytes() == CONTENT
    assert site.requests[0].path == url


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
