# SPDX-License-Identifier: Apache-2.0
"""Tables of coloured cells."""

from collections.abc import Sequence

from markupsafe import Markup

from effdet.page.charts.parts import LETTER, cut, row_label
from effdet.page.scales import short
from effdet.page.svg import drawing, element, text


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    by_row: bool = False,
    numbers: bool = True,
) -> Markup:
    """A table of coloured cells with their numbers.

    Args:
        values: a row a name of ``rows``, at least 0; None is an empty cell.
        rows: names from top to bottom.
        columns: names from left to right.
        title: what the chart shows, for those who cannot see it.
        x_label: what the columns are.
        y_label: what the rows are.
        by_row: colour by the share of the row's sum, not of the largest value.
        numbers: write the values into the cells.
    """
    cell = 44.0 if numbers else 18.0
    named = any(rows) or any(columns) or x_label or y_label
    left = 34 + min(max((len(cut(r)) for r in rows), default=0) * LETTER, 180.0)
    top = 30 + min(max((len(cut(c)) for c in columns), default=0) * LETTER * 0.75, 140.0)
    if not named:
        left = top = 10.0
    width = left + cell * len(columns) + (max(60.0, top * 0.75) if named else 10.0)
    height = top + cell * len(rows) + 10
    middle = top + cell * len(rows) / 2
    turned = f"rotate(-90 14 {middle:.0f})"
    parts = [
        text(x_label, left + cell * len(columns) / 2, 16, class_="middle"),
        text(y_label, 14.0, middle, class_="middle", transform=turned),
    ]
    for number, name in enumerate(columns):
        x, y = left + cell * (number + 0.5), top - 8
        parts.append(text(cut(name), x, y, transform=f"rotate(-40 {x:.0f} {y:.0f})"))
    largest = max((v for row in values for v in row if v is not None), default=0) or 1
    for number, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + cell * number
        parts.append(row_label(name, left - 8, y + cell / 2 + 4))
        full = (sum(v for v in row if v is not None) or 1) if by_row else largest
        for column, value in zip(range(len(columns)), row, strict=True):
            hover = f"{name} / {columns[column]}"
            place = (left + cell * column, y, cell)
            parts.append(_cell(value, full, place, hover, by_row=by_row, numbers=numbers))
    return drawing(width, height, title, *parts)


def _cell(
    value: float | None,
    full: float,
    place: tuple[float, float, float],
    hover: str,
    *,
    by_row: bool,
    numbers: bool,
) -> Markup:
    if value is None:
        return Markup()
    x, y, size = place
    share = value / full
    words = f"{hover}: {short(value)}" + (f" ({100 * share:.0f} % of the row)" if by_row else "")
    opacity = 0.0 if value == 0 else 0.08 + 0.92 * min(share, 1.0)
    square = {"x": x, "y": y, "width": size, "height": size}
    cell = element("rect", class_="cell", fill_opacity=opacity, **square)
    shade = "middle" + (" on" if opacity > 0.55 else "") + ("" if value else " nothing")
    number = text(short(value), x + size / 2, y + size / 2 + 4, class_=shade)
    return element("g", element("title", words), cell, number if numbers else Markup())
