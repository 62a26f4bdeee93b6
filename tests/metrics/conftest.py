# SPDX-License-Identifier: Apache-2.0
import contextlib
import fcntl
import importlib
import json
import os
import pty
import select
import shutil
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from effdet.metrics import FIGURES

STEP = {
    "loss": 1.5, "cls_loss": 0.5, "box_loss": 0.02, "lr": 0.08, "grad_norm": 3.0,
    "images_per_second": 12.0, "data_share": 0.01, "skipped": 0,
}  # fmt: skip
AP = dict.fromkeys(FIGURES, 0.5) | {"APs": None}


def records(folder: Path, kind: str = "LOG") -> list[dict[str, Any]]:
    """The records of one kind in ``log.jsonl``, all of whose lines must be whole and JSON."""
    text = (folder / "log.jsonl").read_text()
    assert text.endswith("\n")
    lines = text.splitlines()
    assert all(line.startswith("DLLL {") for line in lines)
    found = [json.loads(line.removeprefix("DLLL "), parse_constant=pytest.fail) for line in lines]
    return [record for record in found if record["type"] == kind]


def status(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return values


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def dllogger(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package ``dllogger`` that is installed: the one in fake_dllogger.py."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copy(Path(__file__).with_name("fake_dllogger.py"), folder / "dllogger.py")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "dllogger", raising=False)
    yield importlib.import_module("dllogger")
    sys.modules.pop("dllogger", None)


@contextlib.contextmanager
def terminal(columns: int = 80) -> Iterator[Callable[[], str]]:
    """Standard output and error on a real terminal; called, it gives what came out since."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read() -> str:
        parts = []
        while select.select([master], [], [], 0.05)[0]:  # the kernel hands on with a delay
            parts.append(os.read(master, 4096))
        return b"".join(parts).decode()

    with os.fdopen(slave, "w", encoding="utf-8") as screen, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, screen)
        yield read
    os.close(master)
