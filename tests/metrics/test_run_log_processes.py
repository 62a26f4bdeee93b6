# SPDX-License-Identifier: Apache-2.0
"""Runs of their own that log: stopped, killed, without room or without a reader."""

import errno
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from effdet.metrics import RunLog
from tests.metrics.conftest import records, status
from tests.runs import ROOT

PROGRAM = """
import os, resource, signal, sys
from pathlib import Path
from effdet.metrics import RunLog, FIGURES
what, folder = sys.argv[1], Path(sys.argv[2])
values = dict(loss=1.5, cls_loss=0.5, box_loss=0.02, lr=0.08, grad_norm=3.0,
              images_per_second=12.0, data_share=0.01, skipped=0)
if what == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
with RunLog(folder, epochs=1, steps_per_epoch=100_000, console="lines") as log:
    log.begin_epoch(1)
    for step in range(1, 100_000 if what == "endless" else 101):
        log.step(step, values)
    log.finish({})
"""


def start(what: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_file_that_may_not_grow_ends_no_training_and_holds_whole_lines(tmp_path: Path) -> None:
    with start("limit", tmp_path) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 100
    assert err.splitlines() == [
        f"warning: log.jsonl cannot be written ([Errno {errno.EFBIG}] File too large); "
        "the training goes on"
    ]
    found = records(tmp_path)
    assert 0 < len(found) < 100
    assert [record["step"] for record in found[:2]] == [[1, 1], [1, 2]]
    assert status(tmp_path)["lost_records"] > 50


def kill_at_random(folder: Path, generator: random.Random) -> None:
    """Kill a run that logs; every record that was there is there, and the next start is whole."""
    folder.mkdir()
    with start("endless", folder) as process:
        assert process.stdout is not None
        shown = [process.stdout.readline() for _ in range(generator.randrange(1, 300))]
        time.sleep(generator.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        shown += process.stdout.read().splitlines(keepends=True)
    told = sum(line.endswith("\n") for line in shown)  # a step is told after it is recorded
    RunLog(folder, epochs=1, steps_per_epoch=10).parameters({})
    found = records(folder)
    assert found[-1]["step"] == "PARAMETER"
    assert [record["step"] for record in found[:-1]] == [[1, n + 1] for n in range(len(found) - 1)]
    assert len(found) - 1 >= told >= 1


def test_a_kill_loses_no_finished_line(tmp_path: Path) -> None:
    print("N = 1, seed 0")
    kill_at_random(tmp_path / "run", random.Random(0))


@pytest.mark.slow
def test_many_kills_lose_no_finished_line(tmp_path: Path) -> None:
    print("N = 30, seed 1")
    generator = random.Random(1)
    for number in range(30):
        kill_at_random(tmp_path / f"run{number}", generator)


def test_a_reader_that_leaves_ends_no_training(tmp_path: Path) -> None:
    with start("finite", tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
    assert process.returncode == 0, err
    assert err.splitlines() == [
        "warning: standard output cannot be written ([Errno 32] Broken pipe); the training goes on"
    ]
    assert status(tmp_path)["state"] == "finished"
    assert len(records(tmp_path)) == 101
