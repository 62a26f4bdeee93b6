# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from tests.fuzz.annotations import fuzz

FORBIDDEN = {
    "crash", "silently accepted", "wrongly refused", "no place", "not printable", "wrong table",
    "wrong strictness", "two ways disagree",
    "other figures (faster)", "other figures (pycocotools)",
}  # fmt: skip


def check(figures: dict[str, Any]) -> None:
    print(figures)
    assert figures["failures"] == []
    counts = figures["annotations"]
    assert not FORBIDDEN & {*counts, *figures["results"]}
    assert counts["accepted"] + counts["refused"] == figures["cases"]
    assert (
        min(
            counts[key]
            for key in ("clean", "repaired", "scored", "without images", "refused with line")
        )
        > 0
    )
    assert min(figures["results"][key] for key in ("accepted", "refused")) > 0


def test_spoilt_files_are_refused_and_no_other() -> None:
    check(fuzz(2000, seed=1))


@pytest.mark.slow
def test_a_hundred_thousand_spoilt_files_are_refused_and_no_other() -> None:
    check(fuzz(100_000, seed=0))
