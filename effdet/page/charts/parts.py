# SPDX-License-Identifier: Apache-2.0
"""What the charts share: the size, names, a legend, axes."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from effdet.page.scales import Scale
from effdet.page.svg import element, text

WIDTH, HEIGHT = 480.0, 300.0
COLORS = 6
"""Colours in the style sheet; further series repeat them, dashed."""
LEFT, RIGHT, TOP, BOTTOM = 72.0, 14.0, 14.0, 44.0
LETTER = 7.6
"""Mean width of a letter; a little more than in Arial, since on phones letters are larger."""

_LINE = 18.0


def is_number(value: float | None) -> bool:
    """Whether there is a value to draw."""
    return value is not None and math.isfinite(value)


def cut(name: str, length: int = 26) -> str:
    """``name`` in at most ``length`` letters."""
    return name if len(name) <= length else name[: length - 1] + "…"


def stroke(color: int) -> str:
    """The classes of a line of this colour."""
    dashed = ("", " dashed", " dotted")[min(color // COLORS, 2)]
    return f"line c{color % COLORS}{dashed}"


def row_label(name: str, x: float, y: float) -> Markup:
    """The name of a row, which ends at (x, y); a cut one stands whole in its hover title."""
    label = text(cut(name), x, y, class_="end")
    return element("g", element("title", name), label) if cut(name) != name else label


def legend_of(entries: Sequence[tuple[str, int]]) -> tuple[Markup, float]:
    """The named entries in as many lines as they need, and the height that they take."""
    named = list(dict.fromkeys((name, color) for name, color in entries if name))
    parts: list[Markup] = []
    x, line = LEFT, 0
    for name, color in named:
        width = 34 + len(cut(name)) * LETTER
        if x + width > WIDTH and x > LEFT:
            x, line = LEFT, line + 1
        y = 14 + _LINE * line
        mark = {"x1": x, "x2": x + 16, "y1": y - 4, "y2": y - 4}
        parts.append(element("line", class_=stroke(color), **mark))
        parts.append(text(cut(name), x + 21, y, class_="legend"))
        x += width
    return Markup().join(parts), _LINE * (line + 1) if named else 0.0


def axes(x_axis: Scale, y_axis: Scale, x_label: str, y_label: str) -> list[Markup]:
    """Both axes with ticks, names and horizontal lines of a grid."""
    bottom, top = y_axis.start, y_axis.end
    parts = []
    for tick in y_axis.ticks:
        y = y_axis(tick)
        parts.append(element("line", class_="grid", x1=x_axis.start, x2=x_axis.end, y1=y, y2=y))
        parts.append(text(y_axis.label(tick), x_axis.start - 6, y + 4, class_="tick end"))
    for tick in x_axis.ticks:
        parts.append(text(x_axis.label(tick), x_axis(tick), bottom + 17, class_="tick middle"))
        place = x_axis(tick)
        parts.append(element("line", class_="axis", x1=place, x2=place, y1=bottom, y2=bottom + 4))
    ends = {"x1": x_axis.start, "x2": x_axis.end, "y1": bottom, "y2": bottom}
    parts.append(element("line", class_="axis", **ends))
    parts.append(text(x_label, (x_axis.start + x_axis.end) / 2, bottom + 36, class_="middle"))
    turned = f"rotate(-90 12 {(top + bottom) / 2:.0f})"
    if y_label:
        place = (top + bottom) / 2
        parts.append(text(y_label, 12.0, place, class_="middle", transform=turned))
    return parts


def vertical_grid(axis: Scale, top: float, bottom: float) -> Markup:
    """Vertical lines at the ticks of ``axis``, which are named below."""
    parts = []
    for tick in axis.ticks:
        x = axis(tick)
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=top, y2=bottom))
        parts.append(text(axis.label(tick), x, bottom + 17, class_="tick middle"))
    return Markup().join(parts)
