# SPDX-License-Identifier: Apache-2.0
"""Kernels built with one torch, imported under another. Takes minutes and a package index."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
OTHER = "torch==2.13.0"
pytestmark = pytest.mark.slow

# Runs every operator that is built, compares it with its definition, and computes one loss.
CHECK = """
import sys
# An editable installation would lend this copy its CUDA module.
sys.meta_path[:] = [f for f in sys.meta_path if "Editable" not in getattr(f, "__name__", "")]
import json
from collections import Counter
import torch
from effdet.ops import build_info, sigmoid_focal_loss
from tests.fuzz import operator_case as fuzz
names, counts = [name for name in fuzz.OPERATORS if fuzz.exists(name)], Counter()
for name in names:
    for number in range(60):
        fuzz.run_case(name, number, 0, counts)
logits = torch.linspace(-6, 3, 2 * 20 * 5 * 7).view(2, 20, 5, 7)
targets = torch.arange(2 * 4 * 35, dtype=torch.int32).view(2, -1) % 7 - 2
loss = sigmoid_focal_loss([logits], targets, num_classes=5)
print(json.dumps({"operators": names, "loss": loss.item(), **counts, **build_info()}))
"""


def run(command: list[str | Path], folder: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | environment,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with another torch."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    wanted = [OTHER, "numpy", "pyyaml", "setuptools>=77", "ninja", "pybind11>=2.13"]
    pip = [str(python), "-m", "pip", "install", "--no-cache-dir", "--quiet"]
    asked = subprocess.run([*pip, "--dry-run", "--no-deps", OTHER], capture_output=True, text=True)
    if asked.returncode != 0:
        last = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"{OTHER} cannot be had from the package index: {last}")
    subprocess.run([*pip, *wanted], check=True)
    return python


def build(python: Path, folder: Path) -> None:
    """Compile a copy of the sources in ``folder`` with that Python's torch."""
    without = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "effdet", folder / "effdet", ignore=without)
    shutil.copytree(ROOT / "tests" / "fuzz", folder / "tests" / "fuzz", ignore=without)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    run([python, "setup.py", "build_ext", "--inplace"], folder, EFFDET_CUDA="0")


def check(python: Path, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run([python, "-c", CHECK], folder).splitlines()[-1])
    return found


def test_a_build_serves_another_torch_both_ways(other_python: Path, tmp_path: Path) -> None:
    builders = {torch.__version__: Path(sys.executable)}
    builders[
        run([other_python, "-c", "import torch; print(torch.__version__)"], tmp_path).strip()
    ] = other_python
    assert len(builders) == 2, "this test needs another torch than the running one"
    found = []
    for number, (built, builder) in enumerate(builders.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        build(builder, folder)
        for running, python in builders.items():
            found.append(check(python, folder))
            assert (found[-1]["built_torch"], found[-1]["running_torch"]) == (built, running)
            assert found[-1]["cpu_kernels"]
    assert len(found[0]["operators"]) == 7
    for name in ("operators", "loss", "instruction_set", "compared"):
        assert all(row[name] == found[0][name] for row in found), name
