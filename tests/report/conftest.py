# SPDX-License-Identifier: Apache-2.0
"""A run of the tiny model, made once."""

from pathlib import Path

import pytest

from tests.runs import tiny_coco
from tests.tiny import TINY, tiny_model, train_here


@pytest.fixture(scope="session")
def report_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("report") / "data", images=6)


@pytest.fixture(scope="session")
def tiny_run(report_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, both validated."""
    folder = tmp_path_factory.mktemp("report") / "run"
    words = ["--data", report_data, "--epochs", "2", "--batch-size", "2", "--log-every", "1"]
    with tiny_model():
        assert train_here(*TINY, *words, "--output", folder) == 0
    return folder
