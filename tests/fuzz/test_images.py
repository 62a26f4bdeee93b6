# SPDX-License-Identifier: Apache-2.0
"""Nothing in an image file ends the process, hangs it or is told without the file's name."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import images
from tests.fuzz.image_files import mutated, seeds
from tests.fuzz.images import DECODED, FAULT, decode_ours, fuzz
from tests.test_processes import linux

pytestmark = linux


def check(cases: int, seed: int) -> None:
    # In a process of its own, whose memory is not that of the tests before.
    words = ["-m", "tests.fuzz.images", "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(found)
    assert (found["deaths"], found["hangs"], found["faults"]) == ([], [], [])
    assert found["decoded"] + found["refused"] == cases
    assert min(found["decoded"], found["refused"]) > cases / 10
    assert found["peak_memory_mb"] < 1000


def test_every_seed_is_a_valid_image(tmp_path: Path) -> None:
    for number, content in enumerate(seeds()):
        (tmp_path / "a").write_bytes(content)
        assert decode_ours(tmp_path / "a") == DECODED, number


def test_a_few_thousand_mutated_images() -> None:
    check(3000, seed=1)


@pytest.mark.slow
def test_a_hundred_thousand_mutated_images() -> None:
    check(100_000, seed=0)


def test_the_harness_finds_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 cases one dies, one hangs, one raises, and one is not told."""
    monkeypatch.setattr(images, "HANG_SECONDS", 0.1)
    number = {mutated(3, case): case for case in range(40)}

    def decode(path: Path) -> int:
        case = number[path.read_bytes()]
        if case == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if case == 11:
            signal.pause()
        if case == 13:
            raise ValueError("a\nb")
        return FAULT if case == 17 else DECODED

    found = fuzz(40, 3, decode)
    assert (found["num_deaths"], found["num_hangs"], found["num_faults"]) == (1, 1, 2)
    assert found["decoded"] == 36
    assert [found["deaths"], found["hangs"]] == [["7: signal 9"], ["11: signal 9"]]
    assert found["faults"] == ["13: ValueError: 'a\\nb'"]
