# SPDX-License-Identifier: Apache-2.0
"""Single values of text formats: numbers, sides of images, and lists of names."""

from collections.abc import Iterator
from pathlib import Path

from effdet.annotations import Faults
from effdet.annotations.rows import HUGE, MAX_SIDE
from effdet.errors import DataError, shown
from effdet.files.regular import open_regular

MAX_LIST_BYTES = 1 << 28
"""Size of a list of names that is read."""


def number(text: str) -> float | None:
    """A finite number below 10^9; None where the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < HUGE and "_" not in text else None


def side(text: str | None, place: str, faults: Faults) -> int:
    """Pixels of an image's side; 0 where they are not recorded, -1 for a fault.

    Args:
        text: what stands there.
        place: where.
        faults: collects.
    """
    value = number(text or "0")
    if value is None or not value.is_integer() or not 0 <= value <= MAX_SIDE:
        expected = f"a whole number of pixels from 1 to {MAX_SIDE:,}"
        faults.add("image-size", place, expected, shown(text))
        return -1
    return int(value)


def listed_in(path: Path) -> Iterator[str]:
    """The lines of a list without blanks around, empty ones included.

    Raises:
        DataError: where it cannot be read.
    """
    with open_regular(path, "list of images", DataError, MAX_LIST_BYTES) as file:
        for line in file.read().decode("utf-8", "replace").split("\n"):
            yield line.strip()
