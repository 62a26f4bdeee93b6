# SPDX-License-Identifier: Apache-2.0
"""From values to places on an axis."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One axis.

    Attributes:
        low: value at ``start``.
        high: value at ``end``, above ``low``.
        start: place of ``low``, in units of the drawing.
        end: place of ``high``.
        ticks: values that get a mark.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The place of ``value``; one that is not on the axis comes to its end."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def label(self, value: float) -> str:
        """``value`` of a tick in as few digits as tell it from the next one."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else abs(value) or 1.0
        return short(value, step, max(map(abs, self.ticks), default=0.0))


def short(value: float, step: float = 0.0, largest: float = 0.0) -> str:
    """A number for people: ``12,000``, ``0.25``, ``2.5e-7``; fine enough for steps of ``step``.

    Numbers that stand beside one of size ``largest`` are written the way that one is.
    """
    if value == 0:
        return "0"
    if max(abs(value), largest) >= 1e7 or max(abs(value), step, largest) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    digits = max(0, 1 - math.floor(math.log10(step))) if step else 4
    text = f"{value:,.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def scale(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    low: float | None = None,
    high: float | None = None,
    count: int = 5,
) -> Scale:
    """An axis that holds ``values``, with about ``count`` ticks at round numbers.

    Args:
        values: finite numbers; none give an axis from 0 to 1.
        start: place of the lowest value.
        end: place of the highest.
        low: lowest value of the axis (default: of ``values``, rounded down to a tick).
        high: highest value of the axis.
        count: ticks that are wanted.
    """
    found = list(values) or [0.0, 1.0]
    bottom = min(found) if low is None else low
    top = max(found) if high is None else high
    if top <= bottom:
        margin = abs(bottom) * 0.5 or 1.0
        bottom, top = (bottom - margin if low is None and bottom else bottom), bottom + margin
    step = _round_step((top - bottom) / count)
    if low is None:
        bottom = math.floor(bottom / step + 1e-9) * step
    if high is None:
        top = math.ceil(top / step - 1e-9) * step
    first, last = math.ceil(bottom / step - 1e-9), math.floor(top / step + 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Scale(low=bottom, high=top, start=start, end=end, ticks=ticks)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
