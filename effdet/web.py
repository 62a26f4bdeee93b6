# SPDX-License-Identifier: Apache-2.0
"""From an address into a file: resumed where it broke off, tried again, over https alone.

Beside a file ``X`` that is not whole yet lies ``X.json``: which version of which address its bytes
are of. Without that, or where the server has another version by now, everything is fetched anew.
"""

import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from effdet.bars import Bar
from effdet.files import WriteError, megabytes, replace_text, write_error

TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""

PAUSES: tuple[float, ...] = (1, 2, 4, 8)
"""Seconds before each further try; they start over whenever a try has brought new bytes."""

MAX_SIZE = 1 << 32
"""Bytes, where nothing else is known; an answer without an end must not fill the disk."""

_BLOCK = 1 << 16
_PASSING_CODES = {408, 416, 425, 429, 500, 502, 503, 504}
_PASSING = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class UnreachableError(Exception):
    """What an address should give could not be had; says why in a few words."""


class _BrokenOffError(ConnectionError):
    """An answer that ended early, or that goes on with another version of the file."""


Begin = Callable[[int, int | None], None]


def copy_url(url: str, path: Path, begin: Begin, max_size: int | None = None) -> None:
    """Bring what is at ``url`` into ``path``; bytes that an earlier call left there are kept.

    Args:
        url: https, or for a server on this machine http.
        path: the file, for which one process at a time may call this.
        begin: called whenever bytes begin to flow, with those there already and the number of all,
            where the server tells it.
        max_size: bytes after which it is given up; by default :data:`MAX_SIZE`.

    Raises:
        UnreachableError: where it cannot be had, after a few tries if these can help.
        WriteError: where ``path`` cannot be written or does not fit on the disk.
    """
    if not _is_safe(url, url):
        raise UnreachableError(f"{url} is not an https address")
    failures, most, has_gained = 0, _size(path), False
    while True:
        try:
            return _attempt(url, path, begin, MAX_SIZE if max_size is None else max_size)
        except WriteError:
            raise
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if _size(path) > most:
                failures, most, has_gained = 0, _size(path), True
            reason = _reason(url, error)
            if failures == len(PAUSES) or not (has_gained or _may_pass(error)):
                raise UnreachableError(reason) from error
            say(f"{reason}; trying again in {PAUSES[failures]:g} s")
            time.sleep(PAUSES[failures])
            failures += 1


@contextlib.contextmanager
def open_url(url: str, seconds: float = TIMEOUT) -> Iterator[http.client.HTTPResponse]:
    """The answer of an address as :func:`copy_url` takes; errors inside are told as its are."""
    if not _is_safe(url, url):
        raise UnreachableError(f"{url} is not an https address")
    try:
        with _opener().open(_request(url), timeout=seconds) as answer:
            yield answer
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: odd addresses
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise UnreachableError(_reason(url, error)) from error


def forget(path: Path) -> None:
    """Delete what :func:`copy_url` knows of the bytes in ``path``, so that it starts anew."""
    _note_of(path).unlink(missing_ok=True)


def say(text: str) -> None:
    """Print a line on standard error."""
    print(f"effdet: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Version:
    """Which bytes an answer has: its address, ETag or date, and how many there are in all."""

    url: str
    tag: str
    total: int | None


def _attempt(url: str, path: Path, begin: Begin, max_size: int) -> None:
    kept = _kept(url, path)
    start = 0 if kept is None else _size(path)
    if kept is not None and start == kept.total:
        return
    request = _request(url)
    if kept is not None:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", kept.tag)
    try:
        answer: http.client.HTTPResponse = _opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            forget(path)
        raise
    with answer:
        version, first = _version(url, answer)
        if first != 0 and (first != start or version != kept):
            forget(path)
            raise _BrokenOffError("the file there has changed")
        if first == 0:
            with _naming(path):
                path.write_bytes(b"")
                forget(path)
            if version.tag:
                replace_text(_note_of(path), json.dumps(asdict(version)))
        begin(first, version.total)
        _write(answer, path, first, version.total, max_size)


def _request(url: str) -> urllib.request.Request:
    headers = {"User-Agent": "effdet-toolkit", "Accept-Encoding": "identity"}
    return urllib.request.Request(url, headers=headers)


def _kept(url: str, path: Path) -> _Version | None:
    """What the bytes in ``path`` are of; None where there are none that can be gone on with."""
    try:
        version = _Version(**json.loads(_note_of(path).read_text()))
        size = path.stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    is_part = version.total is None or size <= version.total
    return version if version.url == url and size > 0 and is_part else None


def _version(url: str, answer: http.client.HTTPResponse) -> tuple[_Version, int]:
    """Which bytes an answer has, and the number of the first of them."""
    tag = answer.headers.get("ETag", "")
    if not tag or tag.startswith("W/"):  # weak ones are for pages, not for bytes
        tag = answer.headers.get("Last-Modified", "")
    if answer.status == 206:
        text = answer.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text)
        if found is None:
            raise _BrokenOffError(f"an answer for the bytes {text!r}")
        total = None if found[2] == "*" else int(found[2])
        return _Version(url, tag, total), int(found[1])
    if answer.status != 200:
        raise UnreachableError(f"{urlsplit(url).hostname} answers {answer.status} {answer.reason}")
    length = answer.headers.get("Content-Length", "")
    return _Version(url, tag, int(length) if length.isdecimal() else None), 0


def _write(
    answer: http.client.HTTPResponse, path: Path, start: int, total: int | None, max_size: int
) -> None:
    left = None if total is None else total - start
    with _naming(path, left):
        if left is not None and shutil.disk_usage(path.parent).free < left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file = path.open("ab")
    bar = Bar(total=total, initial=start, **_BYTES)
    position = start
    try:
        while block := answer.read(_BLOCK):
            position += len(block)
            if position > max_size:
                raise UnreachableError(f"the file there has more than {megabytes(max_size)}")
            with _naming(path, left):
                file.write(block)
                file.flush()
            bar.update(len(block))
        with _naming(path, left):
            os.fsync(file.fileno())
    finally:
        bar.close()
        with contextlib.suppress(OSError):  # after a failed write it fails again
            file.close()
    if total is not None and position < total:
        raise _BrokenOffError(f"after {megabytes(position)} of {megabytes(total)}")


@contextlib.contextmanager
def _naming(path: Path, size: int | None = None) -> Iterator[None]:
    """The system's errors as one that names ``path`` and tells where ``size`` bytes do not fit."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error, size) from error


_BYTES: dict[str, Any] = {"unit": "B", "unit_scale": True, "leave": False, "disable": None}
"""A bar of bytes, on a terminal alone."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows an address to https alone."""

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
    ) -> Any:
        target = urljoin(req.full_url, headers.get("Location", ""))
        if not _is_safe(target, req.full_url):
            fp.close()
            there = target.split("?")[0]
            raise UnreachableError(f"{req.host} sends on to {there}, which is not an https address")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _is_safe(url: str, origin: str) -> bool:
    """Whether ``url`` is https, or http on this machine that ``origin`` had to do with before."""
    parts, before = urlsplit(url), urlsplit(origin)
    if parts.scheme == "http":
        return before.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
    return parts.scheme == "https"


def _opener() -> urllib.request.OpenerDirector:
    """https, http and the proxies of the environment; no files, no ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _may_pass(error: Exception) -> bool:
    """Whether trying again can help: not where there is no way there, or nothing there."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING_CODES
    if isinstance(error, urllib.error.URLError):  # before there was a connection
        error = error.reason if isinstance(error.reason, Exception) else error
    elif isinstance(error, TimeoutError | _BrokenOffError | http.client.HTTPException):
        return True
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, ssl.SSLCertVerificationError)
    return isinstance(error, _PASSING)


def _reason(url: str, error: Exception) -> str:
    host = urlsplit(url).netloc
    if isinstance(error, urllib.error.HTTPError):
        return f"{urlsplit(error.url).netloc or host} answers {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, _BrokenOffError | http.client.HTTPException):
        return f"the connection to {host} broke off: {str(cause) or type(cause).__name__}"
    if isinstance(cause, TimeoutError):
        return f"cannot reach {host}: no answer for {TIMEOUT:g} s"
    return f"cannot reach {host}: {getattr(cause, 'strerror', None) or cause}"


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
