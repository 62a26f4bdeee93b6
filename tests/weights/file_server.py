# SPDX-License-Identifier: Apache-2.0
"""A server of one file on this machine, which can be told to fail in the ways that servers do."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Gives the file as asked, or what stands first in the script."""

    site: "Site"

    def do_GET(self) -> None:
        self.site.requests.append(self)
        answer = self.site.script.pop(0) if self.site.script else full
        answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send(self, code: int, body: bytes, **headers: object) -> None:
        """An answer; ``content_length`` stands for ``Content-Length``, None leaves it out."""
        values = {"Content-Length": len(body)} | {
            name.replace("_", "-").title(): value for name, value in headers.items()
        }
        self.send_response(code)
        for name, value in values.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


@dataclass
class Site:
    """What the server has and what it was asked.

    Attributes:
        content: the file.
        tag: its ETag, None for none.
        script: answers to the next requests, in order.
        requests: those that came.
    """

    content: bytes
    tag: str | None = '"one"'
    script: list[Answer] = field(default_factory=list)
    requests: list[Handler] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/weights.pth"

    @property
    def ranges(self) -> list[str | None]:
        """The ``Range`` of every request."""
        return [request.headers["Range"] for request in self.requests]


class Server:
    """Serves ``site`` until it is closed."""

    def __init__(self, site: Site) -> None:
        handler = type("SiteHandler", (Handler,), {"site": site})
        self.site = site
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        site.port = self.server.server_address[1]
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self.thread.start()

    def close(self) -> None:
        self.site.release.set()
        if self.thread.is_alive():
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()


def full(handler: Handler) -> None:
    """The file, or the part of it that is asked for and still of it."""
    site = handler.site
    found = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
    if found is None or handler.headers["If-Range"] != site.tag:
        handler.send(200, site.content, etag=site.tag)
    else:
        part(int(found[1]))(handler)


def whole(handler: Handler) -> None:
    """The whole file whatever part is asked for."""
    handler.send(200, handler.site.content, etag=handler.site.tag)


def part(start: int) -> Answer:
    """The file from a place on, whatever is asked for."""

    def answer(handler: Handler) -> None:
        content = handler.site.content
        which = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.send(206, content[start:], content_range=which, etag=handler.site.tag)

    return answer


def cut(end: int) -> Answer:
    """The file's first bytes, then the end of the connection."""

    def answer(handler: Handler) -> None:
        content = handler.site.content
        handler.send(200, content[:end], content_length=len(content), etag=handler.site.tag)

    return answer


def stall(end: int) -> Answer:
    """The file's first bytes, then nothing."""

    def answer(handler: Handler) -> None:
        cut(end)(handler)
        handler.site.release.wait(5)

    return answer


def silence(handler: Handler) -> None:
    """Nothing at all."""
    handler.site.release.wait(5)


def status(code: int) -> Answer:
    """An error."""
    return lambda handler: handler.send(code, b"<html>sorry</html>")


def redirect(target: str) -> Answer:
    """Another place."""
    return lambda handler: handler.send(302, b"", location=target)
