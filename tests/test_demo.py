# SPDX-License-Identifier: Apache-2.0
"""The whole way on the built-in set: minutes, so only in ``make test-slow``."""

import json
from pathlib import Path

import pytest

from tests.runs import program


@pytest.mark.slow
def test_the_demo_learns_the_built_in_set(tmp_path: Path) -> None:
    run, figures = tmp_path / "run", tmp_path / "figures.json"
    program("train.py", "--preset", "demo", "--output", run, minutes=30)
    program("validate.py", "--weights", run / "best.pt", "--metrics", figures)
    assert json.loads(figures.read_text())["AP"] >= 0.5
