# SPDX-License-Identifier: Apache-2.0
"""Single values out of files of others: of the right type, and no larger than any of use."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from effdet.errors import SettingError, UsageError, nearest, shown


def check_number(
    name: str, value: Any, low: float, high: float, *, whole: bool = False, above: bool = False
) -> None:
    """Refuse what is no number in ``[low, high]``; NaN never is.

    Args:
        name: of the value, for the message.
        value: anything.
        low: the least.
        high: the most.
        whole: whether it must be an ``int``.
        above: whether it must be more than ``low``.

    Raises:
        SettingError: naming the value.
    """
    kinds = (int,) if whole else (int, float)
    # Python compares whole numbers of any size with floats without converting them.
    if type(value) in kinds and low <= value <= high and not (above and value == low):
        return
    kind = "a whole number" if whole else "a number"
    start = "(" if above else "["
    wanted = f"{kind} in {start}{_number(low)}, {_number(high)}]"
    raise SettingError(name, f"must be {wanted}, got {shown(value)}")


def check_numbers(
    name: str, values: Any, low: float, high: float, counts: Iterable[int], **how: bool
) -> None:
    """Refuse what is no tuple of so many numbers, each as :func:`check_number` has it."""
    counts = list(counts)
    if type(values) is not tuple or len(values) not in counts:
        raise SettingError(name, f"must be {_range(counts)} numbers, got {shown(values)}")
    for value in values:
        check_number(name, value, low, high, **how)


def check_image_size(size: Any, least: int, most: int, pixels: int) -> None:
    """Refuse what is no ``(height, width)`` with sides and an area within these limits."""
    check_numbers("image_size", size, -math.inf, math.inf, [2], whole=True)
    height, width = size
    for fits, limit in (
        (min(size) >= least, f"at least {least} pixels a side"),
        (max(size) <= most, f"at most {most} pixels a side"),
        (height * width <= pixels, f"at most {pixels:,} pixels"),
    ):
        if not fits:
            found = f"{shown(height, 20)} x {shown(width, 20)}"
            raise SettingError("image_size", f"must be {limit}, got {found} (height x width)")


def check_normalization(mean: Any, std: Any) -> None:
    """Refuse what cannot bring RGB values in 0-255 to those of a network's input."""
    check_numbers("mean", mean, -1e6, 1e6, [3])
    check_numbers("std", std, 0, 1e6, [3], above=True)


def check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Refuse what is none of ``known``; the nearest are named."""
    if type(value) is not str or value not in known:
        near = nearest(value, known) if type(value) is str and len(value) < 200 else ""
        raise UsageError(f"unknown {name} {shown(value)}{near}")


def check_text(name: str, value: Any, length: int) -> None:
    """Refuse what is no text of at most ``length`` characters."""
    if type(value) is not str or len(value) > length:
        raise SettingError(
            name, f"must be a text of at most {length} characters, got {shown(value)}"
        )


def _number(value: float) -> str:
    return f"{value:,}" if type(value) is int else f"{value:g}"


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
