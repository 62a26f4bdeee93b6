# SPDX-License-Identifier: Apache-2.0
"""What the README says is so."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from effdet import flags
from effdet.cli import describe
from effdet.config import MODELS, PredictConfig, TrainConfig, ValidateConfig
from effdet.presets import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = {"train.py": TrainConfig, "validate.py": ValidateConfig, "effdet predict": PredictConfig}


def commands() -> list[tuple[str, list[str]]]:
    """Every call of our programs in the README: program and words."""
    text = README.replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        for program in PROGRAMS:
            match = re.match(rf"(?:python |torchrun [^#]*?)?{re.escape(program)}( [^#]*|$)", line)
            if match:
                found.append((program, shlex.split(match.group(1))))
    return found


def test_the_readme_shows_each_program() -> None:
    assert {program for program, _ in commands()} == set(PROGRAMS)


@pytest.mark.parametrize(("program", "words"), commands())
def test_every_command_has_options_that_exist(program: str, words: list[str]) -> None:
    presets = PRESETS if program == "train.py" else None
    config: type[Any] = PROGRAMS[program]
    flags.parse(config, words, program=program, description="", presets=presets)


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdet_lite0"])
def test_the_model_table_holds_the_counted_figures(name: str) -> None:
    model = describe(MODELS[name])
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {model['parameters']:,} |" in row
    assert f"| {model['multiply_adds'] / 1e9:.3f} G |" in row
    assert f"| {model['anchors']:,} |" in row


def test_every_model_is_in_the_table() -> None:
    assert all(f"| `{name}` |" in README for name in MODELS)


@pytest.mark.parametrize("name", ["demo_shapes", "bccd_lite0"])
def test_the_measured_figures_are_those_of_the_result_files(name: str) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    figures = result["validation"]["figures"]
    row = next(line for line in README.splitlines() if f"results/{name}.json" in line)
    assert f"AP {figures['AP']:.3f}" in row
    assert f"AP50 {figures['AP50']:.3f}" in row
    assert f"{result['training_seconds'] / 60:.0f} min" in row
