# SPDX-License-Identifier: Apache-2.0
import sys
from collections.abc import Iterator

import pytest

from effdet.config import BACKBONES, MODELS
from tests.reliability.job import add_tiny_model
from tests.reliability.job_runs import Job, Server, result


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Forks jobs; at the end no process of any is left."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc and forks")
    add_tiny_model()  # so that its checkpoints can be read here
    started = Server(tmp_path_factory.mktemp("jobs"))
    yield started
    started.close()
    del BACKBONES["tiny"], MODELS["tiny"]


@pytest.fixture(scope="package")
def left_alone(server: Server) -> Job:
    """The job that nothing was done to, finished."""
    job = server.job("left-alone").start("--resume", "auto")
    assert job.wait(120) == 0, job.stderr
    training = result(job.run / "last.pt")["training"]
    assert training["skipped"] == [2, 0]
    return job
