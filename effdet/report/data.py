# SPDX-License-Identifier: Apache-2.0
"""Charts of what the boxes of a data set are like."""

from collections.abc import Mapping, Sequence
from typing import Any

from effdet.page import Figure, Section
from effdet.page.charts import bar_chart, heat_map, histogram

MOST_CLASSES = 25
"""Classes in a chart; the table has all."""


def add_labels(section: Section, labels: Mapping[str, Any]) -> None:
    """Boxes by class, size, shape and place."""
    train = labels["train"]
    section.table(
        ["split", "images", "without boxes", "boxes", "crowd regions"],
        [
            [name, s["images"], s["per_image"][0], s["boxes"], s["crowds"]]
            for name, s in labels.items()
        ],
        numeric=range(1, 5),
    )
    section.figures(
        [
            _classes(labels),
            _sides(train["input_sides"], train["input_size"]),
            _aspects(train["aspects"]),
            _per_image(train["per_image"]),
            _centres(train["centres"]),
        ]
    )
    if len(train["classes"]) > MOST_CLASSES:
        _class_table(section, labels)


def _classes(labels: Mapping[str, Any]) -> Figure:
    order = _by_boxes(labels["train"]["classes"])[:MOST_CLASSES]
    names = [labels["train"]["classes"][i]["name"] for i in order]
    values = {split: [_boxes_of(found, name) for name in names] for split, found in labels.items()}
    cut = " The most frequent ones." if len(labels["train"]["classes"]) > MOST_CLASSES else ""
    chart = bar_chart(names, values, title="boxes of each class", x_label="boxes")
    return Figure(svg=chart, caption=f"Boxes of each class.{cut}")


def _by_boxes(classes: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted(range(len(classes)), key=lambda i: -classes[i]["boxes"])


def _boxes_of(found: Mapping[str, Any], name: str) -> int:
    return sum(row["boxes"] for row in found["classes"] if row["name"] == name)


def _class_table(section: Section, labels: Mapping[str, Any]) -> None:
    header = ["class", *(f"{split}: {what}" for split in labels for what in ("boxes", "images"))]
    rows = [
        [
            row["name"],
            *(
                value
                for found in labels.values()
                for r in found["classes"]
                if r["name"] == row["name"]
                for value in (r["boxes"], r["images"])
            ),
        ]
        for row in labels["train"]["classes"]
    ]
    rows = [row for row in rows if len(row) == len(header)]
    section.table(header, rows, numeric=range(1, len(header)))


def _sides(columns: Mapping[str, Any], input_size: Sequence[int]) -> Figure:
    edges, found = _trimmed(columns["edges"], columns["counts"])
    chart = histogram(edges, found, title="box sides", x_label="input pixels", log=True)
    return Figure(
        svg=chart,
        caption="Training boxes by side (root of the area) in pixels of the network's input, "
        f"{input_size[0]} x {input_size[1]}: what anchors have to reach. Boxes below 16 pixels "
        "are hard to see; a larger --image-size makes them larger.",
    )


def _aspects(columns: Mapping[str, Any]) -> Figure:
    edges, found = columns["edges"], columns["counts"]
    chart = histogram(
        edges, found, title="width / height of boxes", x_label="width / height", log=True
    )
    return Figure(
        svg=chart,
        caption="Training boxes by width / height. The default anchors are 0.5, 1 and 2.",
    )


def _per_image(counts: Sequence[int]) -> Figure:
    last = max((n for n, c in enumerate(counts) if c), default=0)
    most = len(counts) - 1
    edges = [n - 0.5 for n in range(last + 2)]
    more = f" {most} stands for all with as many or more." * (last == most)
    chart = histogram(edges, counts[: last + 1], title="boxes in an image", x_label="boxes")
    return Figure(svg=chart, caption=f"Training images by number of boxes.{more}")


def _centres(centres: Sequence[Sequence[int]]) -> Figure:
    chart = heat_map(
        centres, [""] * len(centres), [""] * len(centres), title="centres of boxes", numbers=False
    )
    return Figure(svg=chart, caption="Where in the image the centres of training boxes are.")


def _trimmed(edges: Sequence[float], counts: Sequence[int]) -> tuple[list[float], list[int]]:
    """Without the empty columns at both ends; it begins with an edge that the axis names."""
    filled = [n for n, c in enumerate(counts) if c] or [0]
    first, last = filled[0] // 2 * 2, filled[-1]
    return list(edges[first : last + 2]), list(counts[first : last + 1])
