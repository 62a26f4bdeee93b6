# SPDX-License-Identifier: Apache-2.0
"""What all tests share: few threads, one cache folder, and where real data may lie."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from more threads, and parallel tests fight over the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _autograd_that_survives_forks() -> None:
    """Begin autograd before any export does.

    Tracing registers a stand-in for CUDA devices; autograd that begins after it starts threads for
    them, and then refuses to work in the forks that other tests make.
    """
    torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``EFFDET_CACHE``, new for this session: no test depends on an earlier one or leaves files."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDET_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets and weights, or a skip."""
    folder = Path(os.environ.get("EFFDET_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: set EFFDET_TEST_DATA to a folder of data sets (not {folder})")
    return folder
