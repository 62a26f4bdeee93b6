# SPDX-License-Identifier: Apache-2.0
"""Charts: every value is where its axis says, and nothing else breaks them."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from effdet.page.charts import Series, bar_chart, heat_map, histogram, line_chart, smooth
from effdet.page.scales import scale, short


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def titles(svg: str) -> list[str]:
    return [node.text or "" for node in parsed(svg).iter("title")]


def test_an_axis_has_round_ticks_around_its_values() -> None:
    axis = scale([0.13, 0.87], 0, 100)
    assert axis.ticks == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert (axis(0.0), axis(0.5), axis(1.0)) == (0, 50, 100)


def test_an_axis_of_one_value_or_none_is_an_axis() -> None:
    for values in ([], [0.0], [5.0], [-3.0], [1e-9], [1e12]):
        axis = scale(values, 0, 100)
        assert axis.high > axis.low
        assert len(axis.ticks) >= 2
        for value in values:
            assert 0 <= axis(value) <= 100


def test_values_beyond_a_given_end_stop_at_it() -> None:
    axis = scale([0.0, 50.0], 0, 100, low=0.0, high=10.0)
    assert axis(50.0) == 100


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12000, "12,000"), (0.25, "0.25"), (2.5e-7, "2.5e-7"), (1e9, "1e9"), (3.0, "3")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_ticks_of_a_fine_axis_differ() -> None:
    for values in ([0.5001, 0.5009], [1e-6, 9e-6], [0.9991, 0.9999], [1000.0, 1004.0]):
        axis = scale(values, 0, 100)
        labels = [axis.label(tick) for tick in axis.ticks]
        assert len(set(labels)) == len(labels)


def test_a_line_goes_through_its_points() -> None:
    svg = line_chart([Series(name="a", x=[0, 5, 10], y=[0, 1, 0.5])], title="t", y_range=(0, 1))
    line = next(n for n in parsed(svg).iter("path"))
    numbers = [float(n) for n in re.findall(r"[\d.]+", line.attrib["d"])]
    xs, ys = numbers[::2], numbers[1::2]
    assert xs[1] == pytest.approx((xs[0] + xs[2]) / 2, abs=0.1)
    assert ys[0] > ys[2] > ys[1]  # SVG's y grows downwards
    assert ys[2] == pytest.approx((ys[0] + ys[1]) / 2, abs=0.1)
    assert titles(svg) == ["a: 0 at 0", "a: 1 at 5", "a: 0.5 at 10"]


def test_gaps_and_values_that_are_no_numbers_interrupt_a_line() -> None:
    y = [1.0, None, math.nan, 2.0, 3.0, math.inf]
    svg = line_chart([Series(name="a", x=list(range(6)), y=y)], title="t")
    path = next(n for n in parsed(svg).iter("path")).attrib["d"]
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert "nan" not in svg


def test_charts_of_nothing_are_charts() -> None:
    for svg in (
        line_chart([], title="t"),
        line_chart([Series(name="a", x=[], y=[])], title="t"),
        line_chart([Series(name="a", x=[1], y=[None])], title="t"),
        bar_chart([], {"a": []}, title="t"),
        heat_map([], [], [], title="t"),
        histogram([0, 1], [0], title="t", x_label="x"),
    ):
        assert parsed(svg).tag == "svg"


def test_many_lines_stay_different() -> None:
    lines = [Series(name=str(n), x=[0, 1], y=[n, n]) for n in range(18)]
    svg = line_chart(lines, title="t")
    looks = {n.attrib["class"] for n in parsed(svg).iter("path")}
    assert len(looks) == 18


def test_a_name_that_the_axis_says_needs_no_legend() -> None:
    def legend(*names: str) -> list[str | None]:
        lines = [Series(name=name, x=[0, 1], y=[1, 2]) for name in names]
        found = parsed(line_chart(lines, title="t", y_label="loss"))
        return [n.text for n in found.iter("text") if n.attrib.get("class") == "legend"]

    assert legend("loss") == []
    assert legend("run") == ["run"]
    assert legend("loss", "other") == ["loss", "other"]


def test_ticks_of_an_axis_are_written_alike() -> None:
    for values, expected in [([0, 0.001], "0.0002"), ([0, 1e-4], "2e-5"), ([0, 2e7], "5e6")]:
        axis = scale(values, 0, 100)
        assert axis.label(axis.ticks[1]) == expected


def test_lines_of_one_name_share_a_legend_entry_and_a_faint_one_has_none() -> None:
    lines = [
        Series(name="a", x=[0, 1], y=[1, 2], color=0),
        Series(name="a", x=[2, 3], y=[1, 2], color=0),
        Series(name="raw", x=[0, 1], y=[1, 2], color=0, faint=True),
    ]
    found = parsed(line_chart(lines, title="t"))
    assert [n.text for n in found.iter("text") if n.attrib.get("class") == "legend"] == ["a"]
    assert "faint" in next(found.iter("path")).attrib["class"]  # drawn first, behind the others


def test_bars_are_as_long_as_their_values() -> None:
    found = parsed(bar_chart(["x", "y", "z"], {"n": [10, 5, None]}, title="t", high=10))
    widths = [float(n.attrib["width"]) for n in found.iter("rect")]
    assert len(widths) == 2
    assert widths[0] == pytest.approx(2 * widths[1])


def test_columns_of_a_histogram_are_as_high_as_their_counts() -> None:
    svg = histogram([0, 1, 2, 3], [4, 2, 0], title="t", x_label="x")
    heights = [float(n.attrib["height"]) for n in parsed(svg).iter("rect")]
    assert heights[0] == pytest.approx(2 * heights[1])
    assert heights[2] == 0
    assert titles(svg) == ["0 to 1: 4", "1 to 2: 2", "2 to 3: 0"]


def test_a_heat_map_colours_by_the_largest_value_or_by_the_row() -> None:
    values = [[1, 1], [8, 0]]
    for by_row, expected in ((False, [0.195, 0.195, 1, 0]), (True, [0.54, 0.54, 1, 0])):
        found = parsed(heat_map(values, ["a", "b"], ["c", "d"], title="t", by_row=by_row))
        shades = [float(n.attrib["fill-opacity"]) for n in found.iter("rect")]
        assert shades == pytest.approx(expected, abs=0.006)
    assert "b / c: 8 (100 % of the row)" in titles(
        heat_map(values, ["a", "b"], ["c", "d"], title="t", by_row=True)
    )


def test_smoothing_takes_the_mean_of_neighbours_and_leaves_gaps() -> None:
    assert smooth([1, 2, 3, 4, 5], 3) == [1.5, 2, 3, 4, 4.5]
    assert smooth([1, None, 3], 3) == [1, None, 3]
    assert smooth([], 3) == []
    assert smooth([7.0], 9) == [7]
