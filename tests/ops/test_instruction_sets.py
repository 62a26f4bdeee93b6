# SPDX-License-Identifier: Apache-2.0
"""The lesser instruction sets give what the definitions say; the best one runs everywhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from effdet.ops import build_info

ROOT = Path(__file__).parents[2]
SETS = ("baseline", "avx2", "avx512")
TESTS = ["focal_loss", "box_loss", "rescale", "ema"]  # assign, nms, select: in their own files


@pytest.mark.parametrize("instruction_set", SETS[:2])
def test_the_lesser_instruction_sets_pass_the_same_tests(instruction_set: str) -> None:
    best = build_info()["instruction_set"]
    if best is None or SETS.index(best) <= SETS.index(instruction_set):
        pytest.skip(f"the kernels run with {best} already")
    files = [f"tests/ops/test_{name}.py" for name in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "reference or definition", *files],
        cwd=ROOT,
        env={**os.environ, "EFFDET_INSTRUCTION_SET": instruction_set, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert " passed" in done.stdout


def test_an_unknown_instruction_set_is_named_and_the_best_one_used() -> None:
    if build_info()["instruction_set"] is None:
        pytest.skip("the kernels are not built")
    done = subprocess.run(
        [sys.executable, "-m", "effdet.ops"],
        cwd=ROOT,
        env={**os.environ, "EFFDET_INSTRUCTION_SET": "avx3"},
        capture_output=True,
        text=True,
    )
    assert "EFFDET_INSTRUCTION_SET must be baseline, avx2 or avx512" in done.stderr
    assert f"instruction_set: {build_info()['instruction_set']}" in done.stdout
