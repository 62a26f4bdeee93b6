# SPDX-License-Identifier: Apache-2.0
"""The checks that benchmarks/gpu.py begins with, run on the CPU: they hold for right kernels."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys, torch
sys.path[:0] = ["benchmarks"]
torch.set_num_threads(1)
import gpu_checks
found = gpu_checks.check_all("cpu")
print(len(found), max(found.values()))
gpu_checks.definition = lambda module: lambda *arguments: (torch.zeros(()), [])
gpu_checks.check_all("cpu")
"""


def test_the_checks_pass_on_the_cpu_and_notice_a_wrong_definition() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True
    )
    count, worst = done.stdout.split()
    assert int(count) > 200
    assert float(worst) <= 1
    assert done.returncode != 0
