# SPDX-License-Identifier: Apache-2.0
"""Whatever the server, the network or the proxy does: the published file, or why there is none."""

import errno
import hashlib
import http.client
import random
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest

from effdet import web
from effdet.errors import WeightsError
from effdet.weights import download
from effdet.weights.download import fetch
from effdet.weights.releases import RELEASES
from tests.weights.fetching import CONTENT, NOTE, closed_port, fail, release_at, visible
from tests.weights.file_server import (
    Handler,
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

pytestmark = pytest.mark.usefixtures("folder")


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
