# SPDX-License-Identifier: Apache-2.0
"""Bars and columns."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from effdet.page.charts.parts import (
    BOTTOM,
    COLORS,
    HEIGHT,
    LEFT,
    LETTER,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    cut,
    legend_of,
    row_label,
    vertical_grid,
)
from effdet.page.scales import Scale, scale, short
from effdet.page.svg import drawing, element, text


def bar_chart(
    labels: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    *,
    title: str,
    x_label: str = "",
    high: float | None = None,
) -> Markup:
    """Horizontal bars, one row a label, in the order given.

    Args:
        labels: names of the rows.
        values: name of a group -> its value for each label, at least 0; None has no bar. The name
            of a single group is not shown.
        title: what the chart shows, for those who cannot see it.
        x_label: of the axis, with the unit.
        high: end of the axis (default: that of the values).
    """
    groups = list(values.items())
    names = [(name, number) for number, (name, _) in enumerate(groups)] if len(groups) > 1 else []
    legend, top = legend_of(names)
    left = 16 + min(max((len(cut(label)) for label in labels), default=0) * LETTER, 180.0)
    thick = 16.0 if len(groups) == 1 else 11.0
    row = thick * len(groups) + 7
    bottom = top + 8 + row * len(labels)
    found = [v for group in values.values() for v in group if v is not None]
    axis = scale(found, left, WIDTH - 48, low=0.0, high=high, count=4)
    parts = [vertical_grid(axis, top + 4, bottom), legend]
    for number, label in enumerate(labels):
        y = top + 8 + row * number
        parts.append(row_label(label, left - 8, y + (row - 7) / 2 + 4))
        for group, (name, bars) in enumerate(groups):
            hover = f"{label}, {name}" if len(groups) > 1 else label
            parts.append(_bar(bars[number], axis, y + thick * group, thick - 1, group, hover))
    parts.append(text(x_label, (left + WIDTH - 48) / 2, bottom + 36, class_="middle"))
    return drawing(WIDTH, bottom + (46 if x_label else 26), title, *parts)


def histogram(
    edges: Sequence[float], counts: Sequence[int], *, title: str, x_label: str, log: bool = False
) -> Markup:
    """Columns that touch: how many values lie between each pair of ``edges``.

    Args:
        edges: one more than ``counts``, rising.
        counts: of each column.
        title: what the chart shows, for those who cannot see it.
        x_label: of the axis, with the unit.
        log: the columns are equally wide whatever their edges are, and every second edge is named.
    """
    y_axis = scale([float(c) for c in counts], HEIGHT - BOTTOM, TOP, low=0.0)
    places = [float(n) for n in range(len(edges))] if log else list(edges)
    x_axis = scale([], LEFT, WIDTH - RIGHT, low=places[0], high=places[-1])
    grid = axes(x_axis if not log else _no_ticks(x_axis), y_axis, x_label, "")
    parts = [*grid]
    for number, count in enumerate(counts):
        x, end = x_axis(places[number]), x_axis(places[number + 1])
        hover = f"{short(edges[number])} to {short(edges[number + 1])}: {count:,}"
        top = y_axis(count)
        bar = element("title", hover)
        size = {"width": end - x - 1, "height": HEIGHT - BOTTOM - top}
        parts.append(element("rect", bar, class_="f0", x=x + 0.5, y=top, **size))
    if log:
        parts += [
            text(short(edges[n]), x_axis(float(n)), HEIGHT - BOTTOM + 17, class_="tick middle")
            for n in range(0, len(edges), 2)
        ]
    return drawing(WIDTH, HEIGHT, title, *parts)


def _no_ticks(axis: Scale) -> Scale:
    return Scale(low=axis.low, high=axis.high, start=axis.start, end=axis.end, ticks=())


def _bar(
    value: float | None, axis: Scale, y: float, height: float, color: int, hover: str
) -> Markup:
    if value is None or not math.isfinite(value):
        return text("\N{EN DASH}", axis.start + 4, y + height / 2 + 4, class_="tick")
    width = max(axis(value) - axis.start, 0.5)
    title = element("title", f"{hover}: {short(value)}")
    place = {"x": axis.start, "y": y, "width": width, "height": height}
    bar = element("rect", title, class_=f"f{color % COLORS}", **place)
    number = text(short(value), axis.start + width + 4, y + height / 2 + 4, class_="tick")
    return bar + number
