# SPDX-License-Identifier: Apache-2.0
"""Nothing that a file names is ever run, and no file costs much."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.weights.formats.hostile_files import corpus
from tests.weights.formats.hostile_pickles import CANARY

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process of its own has found while it read every file of the corpus."""
    folder = tmp_path_factory.mktemp("hostile")
    names = {}
    for index, (kind, content) in enumerate(corpus().items()):
        path = folder / f"{index:03}.pt"
        path.write_bytes(content)
        names[path.name] = kind
    module = "tests.weights.formats.hostile_files"
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    found["files"] = {names[name]: result for name, result in found["files"].items()}
    assert found["files"].keys() == set(names.values())
    assert not (folder / CANARY).exists()
    return dict(found)


def test_every_program_of_the_corpus_is_alive(results: dict[str, Any]) -> None:
    """Python's own unpickler runs them: what follows is no proof of nothing."""
    dead = [way for way, ran in results["alive"].items() if not ran]
    assert not dead


def test_nothing_in_a_file_is_ever_run(results: dict[str, Any]) -> None:
    assert [kind for kind, result in results["files"].items() if result["ran"]] == []


def test_every_hostile_file_is_refused_in_one_line_with_its_name(results: dict[str, Any]) -> None:
    wrong = {
        f"{kind}: {way}: {message}"
        for kind, result in results["files"].items()
        for way, message in result["messages"].items()
        if not re.match(r"/[^:]*/\d{3}\.pt: ", message)
        or not message.isprintable()
        or len(message) > 500
    }
    assert wrong == set()


def test_no_hostile_file_costs_much(results: dict[str, Any]) -> None:
    slow = {k: r["seconds"] for k, r in results["files"].items() if r["seconds"] > 2}
    assert slow == {}
    assert results["memory"] < 256e6
