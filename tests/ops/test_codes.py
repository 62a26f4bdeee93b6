# SPDX-License-Identifier: Apache-2.0
"""The numbers that the kernels share with Python have the same values there."""

import re
from pathlib import Path

import pytest

from effdet import boxes, structures
from effdet.ops.ema import ALIGNMENT
from effdet.ops.select_candidates import MAX_LOG_RATIO, REMOVED

CSRC = Path(__file__).parents[2] / "effdet" / "csrc"
DEFINITION = re.compile(r"constexpr \w+ (k\w+) = (\S+?)f?;")
PYTHON = {
    "kBackground": structures.BACKGROUND,
    "kIgnore": structures.IGNORE,
    "kMinSize": boxes.MIN_SIZE,
    "kMaxLogRatio": MAX_LOG_RATIO,
    "kRemoved": REMOVED,
    "kEmaAlignment": ALIGNMENT,
}


def test_the_header_has_the_values_of_python() -> None:
    found = DEFINITION.findall((CSRC / "common" / "codes.h").read_text())
    assert {name: float(value) for name, value in found} == PYTHON


@pytest.mark.parametrize("name", PYTHON)
def test_no_kernel_has_a_copy_of_its_own(name: str) -> None:
    definition = re.compile(rf"\b{name}\s*=[^=]")
    files = [file for file in CSRC.rglob("*") if file.is_file()]
    assert [file.name for file in files if definition.search(file.read_text())] == ["codes.h"]
