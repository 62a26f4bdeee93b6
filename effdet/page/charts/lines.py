# SPDX-License-Identifier: Apache-2.0
"""Lines over a pair of axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from effdet.page.charts.parts import (
    BOTTOM,
    COLORS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    is_number,
    legend_of,
    stroke,
)
from effdet.page.scales import Scale, scale, short
from effdet.page.svg import drawing, element

MOST_POINTS = 400
"""Points of a line that get a hover title; of longer ones every so many do."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart.

    Attributes:
        name: for the legend; lines of one name share an entry. Empty: no entry.
        x: where the values are, rising.
        y: the values; None and what is not finite is a gap.
        color: number of its colour (default: its place among the series).
        faint: draw it pale, behind the others: the raw values of a smoothed line.
        dots: mark each point.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: int | None = None
    faint: bool = False
    dots: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float | None, float | None] = (None, None),
) -> Markup:
    """Lines over a common pair of axes.

    Args:
        series: the lines; those without any value are left out.
        title: what the chart shows, for those who cannot see it.
        x_label: of the axis, with the unit.
        y_label: likewise.
        x_range: ends of the x axis (default: those of the values).
        y_range: ends of the y axis, None for that of the values.
    """
    lines = [(s, number if s.color is None else s.color) for number, s in enumerate(series)]
    lines = [(s, color) for s, color in lines if any(is_number(y) for y in s.y)]
    names = [(s.name, color) for s, color in lines if not s.faint and s.name]
    alone = {name for name, _ in names} == {y_label}  # the axis says it
    legend, legend_height = legend_of([] if alone else names)
    height = HEIGHT + legend_height
    low, high = x_range or (None, None)
    x_values = [x for s, _ in lines for x in s.x]
    x_axis = scale(x_values, LEFT, WIDTH - RIGHT, low=low, high=high)
    x_axis = x_axis if x_range else _tight(x_axis, x_values)
    y_values = [y for s, _ in lines for y in s.y if is_number(y) and y is not None]
    bottom = height - BOTTOM
    y_axis = scale(y_values, bottom, legend_height + TOP, low=y_range[0], high=y_range[1])
    faint_first = sorted(lines, key=lambda line: not line[0].faint)
    return drawing(
        WIDTH,
        height,
        title,
        legend,
        *axes(x_axis, y_axis, x_label, y_label),
        *(_line(s, color, x_axis, y_axis) for s, color in faint_first),
    )


def smooth(values: Sequence[float | None], window: int) -> list[float | None]:
    """Means of up to ``window`` neighbours of each value; gaps stay gaps."""
    half = window // 2
    result: list[float | None] = []
    for place, value in enumerate(values):
        near = values[max(place - half, 0) : place + half + 1]
        numbers = [v for v in near if is_number(v) and v is not None]
        result.append(sum(numbers) / len(numbers) if is_number(value) else None)
    return result


def _tight(axis: Scale, values: Sequence[float]) -> Scale:
    """``axis`` that begins and ends with the values, for one that time runs along."""
    low, high = (min(values), max(values)) if values else (axis.low, axis.high)
    if high <= low:
        return axis
    ticks = tuple(t for t in axis.ticks if low <= t <= high)
    return Scale(low=low, high=high, start=axis.start, end=axis.end, ticks=ticks)


def _line(series: Series, color: int, x_axis: Scale, y_axis: Scale) -> Markup:
    words: list[str] = []
    dots: list[Markup] = []
    pen, every = "M", max(1, len(series.x) // MOST_POINTS)
    for number, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        if y is None or not math.isfinite(y):
            pen = "M"
            continue
        place = x_axis(x), y_axis(y)
        words.append(f"{pen}{place[0]:.1f} {place[1]:.1f}")
        pen = "L"
        if not series.faint and number % every == 0:
            title = element("title", f"{series.name}: {short(y)} at {short(x)}")
            shape = f"dot c{color % COLORS}" + (" shown" if series.dots else "")
            dots.append(element("circle", title, class_=shape, cx=place[0], cy=place[1], r=4))
    faint = " faint" if series.faint else ""
    path = element("path", d="".join(words), class_=stroke(color) + faint)
    return path + Markup().join(dots)
