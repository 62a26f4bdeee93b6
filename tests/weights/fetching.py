# SPDX-License-Identifier: Apache-2.0
"""A file to fetch, and what a fetch leaves."""

import hashlib
import json
import random
import socket
from pathlib import Path
from typing import Any

from effdet.weights.releases import Release

CONTENT = random.Random(0).randbytes(200_000)
NOTE = "weights.pth.json"


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
