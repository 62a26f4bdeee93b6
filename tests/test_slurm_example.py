# SPDX-License-Identifier: Apache-2.0
"""The Slurm example, with programs of our own in place of Slurm's."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from effdet import flags
from effdet.presets import PRESETS
from effdet.settings import TrainConfig

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "slurm" / "train.sbatch"
ENVIRONMENT = {
    "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "d0", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "64",
    "SLURM_JOB_NODELIST": "node[1-2]",
}  # fmt: skip


class Slurm:
    """A folder of programs that write what they were called with; srun may run until a signal."""

    def __init__(self, folder: Path, *, endless: bool, code: int = 0) -> None:
        self.calls = folder / "calls"
        self.path = folder / "bin"
        self.path.mkdir()
        pid = folder / "srun.pid"
        ending = "sleep 30 & wait $!; exit 143" if endless else f"exit {code}"
        note = f'echo "$(basename "$0") $*" >> {self.calls}\n'
        programs = {
            "srun": f"trap 'kill %1; sleep 0.2; echo ended >> {self.calls}; exit 1' TERM\n"
            f"echo $$ > {pid}\n{note}{ending}",
            "scancel": f"{note}kill -TERM $(cat {pid})",
            "scontrol": f'{note}[ "$1" = show ] && printf "node1\\nnode2\\n"',
        }
        for name, body in programs.items():
            (self.path / name).write_text(f"#!/bin/bash -m\n{body}\n")
            (self.path / name).chmod(0o755)

    def start(self) -> subprocess.Popen[bytes]:
        path = f"{self.path}:{os.environ['PATH']}"
        return subprocess.Popen(["bash", SCRIPT], env={**os.environ, **ENVIRONMENT, "PATH": path})

    def lines(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


def test_srun_starts_one_torchrun_a_node_with_options_that_exist(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, endless=False)
    assert slurm.start().wait(20) == 0
    show, srun = slurm.lines()
    assert show == "scontrol show hostnames node[1-2]"
    words = shlex.split(srun)
    assert words[words.index("--rdzv-endpoint") + 1] == "node1:29500"
    assert words[words.index("--nnodes") + 1] == "2"
    config = flags.parse(
        TrainConfig,
        words[words.index("train.py") + 1 :],
        program="train.py",
        description="",
        presets=PRESETS,
    )
    assert (config.resume, config.output) == ("auto", "runs/d0-17")
    assert isinstance(config.batch_size, int)
    assert config.batch_size * config.accumulate * 16 == 128


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_that_ends_by_itself_is_not_put_back(tmp_path: Path, code: int) -> None:
    slurm = Slurm(tmp_path, endless=False, code=code)
    assert slurm.start().wait(20) == code
    assert not any("requeue" in line for line in slurm.lines())


def test_sigterm_ends_the_run_and_then_puts_the_job_back(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, endless=True)
    job = slurm.start()
    end = time.monotonic() + 20
    while not any(line.startswith("srun") for line in slurm.lines()):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 0
    assert slurm.lines()[2:] == ["scancel --signal=TERM 17", "ended", "scontrol requeue 17"]
