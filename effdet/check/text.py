# SPDX-License-Identifier: Apache-2.0
"""The outcome of a check for a terminal."""

import textwrap
from collections.abc import Iterator

from effdet.check.anchors import AnchorReport, Reach
from effdet.check.findings import Example, Finding, count_of
from effdet.check.registry import Severity
from effdet.check.report import CheckReport, SplitFigures
from effdet.counts import counted
from effdet.errors import printable
from effdet.names import shown_name

TITLES: dict[Severity, str] = {"error": "ERRORS", "warning": "WARNINGS", "info": "GOOD TO KNOW"}
ONE: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
WIDTH = 100
LONGEST = 180
"""Letters of an example."""


def format_report(report: CheckReport) -> str:
    """Figures of the splits, the findings from bad to good, and the anchors."""
    parts = ["\n".join(_head(report.splits))]
    for severity, title in TITLES.items():
        found = [f for f in report.findings if f.kind.severity == severity]
        if found:
            parts.append("\n".join([title, *(line for f in found for line in _lines(f))]))
    if report.anchors is not None:
        parts.append("\n".join(_anchor_lines(report.anchors)))
    parts.append(summary(report))
    return "\n\n".join(parts)


def summary(report: CheckReport) -> str:
    """How many kinds of findings there are, in a line."""
    words = []
    for severity, one in ONE.items():
        words.append(counted(count_of(report.findings, severity), one))
    looked = "" if report.decoded else "; images were not decoded"
    return ", ".join(words) + looked


def _head(splits: tuple[SplitFigures, ...]) -> Iterator[str]:
    width = max([len("split"), *(len(printable(split.name)) for split in splits)])
    yield (
        f"{'split':<{width}} {'format':>7} {'images':>9} {'without boxes':>14} {'boxes':>10} "
        f"{'an image':>9} {'crowd':>7} {'classes':>8}"
    )
    for split in splits:
        used = sum(count > 0 for count in split.classes.values())
        yield (
            f"{printable(split.name):<{width}} {split.format:>7} {split.images:>9,} "
            f"{split.without_boxes:>14,} {split.boxes:>10,} {split.boxes / split.images:>9.1f} "
            f"{split.crowd:>7,} {used:>8,}"
        )


def _lines(finding: Finding) -> Iterator[str]:
    kind = finding.kind
    where = ", ".join(f"{printable(name)} {count:,}" for name, count in finding.splits.items())
    yield ""
    yield f"{kind.id:<26} {finding.count:>8,}   ({where})"
    yield from _wrapped(f"{kind.meaning} {kind.advice}", "  ")
    for example in finding.examples:
        yield f"  - {_cut(format_example(example))}"


def format_example(example: Example) -> str:
    """An example in a line: split, file, annotation, class, what is there."""
    words = [printable(example.split)]
    if example.file is not None:
        words.append(printable(example.file))
    if example.annotation is not None:
        words.append(f"annotation {example.annotation}")
    if example.category:
        words.append(shown_name(example.category))
    return f"{' '.join(words)}: {printable(example.text)}"


def _anchor_lines(report: AnchorReport) -> Iterator[str]:
    height, width = report.image_size
    boxes = f"{counted(report.boxes, 'box', 'boxes')} of {printable(report.split)}"
    yield f"ANCHORS of {report.model} at {width} x {height} on {boxes}"
    yield ""
    yield f"  {'':<10} {'reached at IoU 0.5':>19} {'mean best IoU':>14}   --anchors"
    yield _reach_line("now", report.own)
    if report.better is not None:
        yield _reach_line("better", report.better)
    else:
        yield "  no others were found that reach clearly more"


def _reach_line(name: str, reach: Reach) -> str:
    return f"  {name:<10} {100 * reach.reached:>17.1f} % {reach.mean_iou:>14.3f}   {reach.anchors}"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
