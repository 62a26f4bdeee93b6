# SPDX-License-Identifier: Apache-2.0
"""The figures of ``effdet benchmark`` for people."""

from pathlib import Path

from effdet.benchmark.timing import STAGES, Report, Row, Timing
from effdet.names import shown_name


def format_report(report: Report) -> str:
    """A line a file, then a table a stage and batch size."""
    rows = report.rows
    names = [shown_name(Path(row.weights).name) for row in rows]
    wide = max(map(len, [*names, "file"]))
    parts = [_files(report, names, wide)]
    for number, timing in enumerate(rows[0].timings):
        parts.append(_title(timing))
        parts += [
            _line(name, row.timings[number], wide) for name, row in zip(names, rows, strict=True)
        ]
    parts += [
        "",
        f"{report.rounds} calls of each, in turn, on {shown_name(report.images)}. Times are of",
        "this machine under its load now; ratios to the first file carry further.",
    ]
    return "\n".join(parts)


def _files(report: Report, names: list[str], wide: int) -> str:
    lines = [
        f"{'file':<{wide}}  {'runs on':<24} {'model':<18} {'size':>9}  {'threads':>7} {'MB':>7} "
        f"{'memory':>8} {'AP':>6}"
    ]
    lines += [_file(name, row, wide) for name, row in zip(names, report.rows, strict=True)]
    return "\n".join(lines)


def _file(name: str, row: Row, wide: int) -> str:
    size = "x".join(map(str, row.image_size))
    runs_on = row.kind if row.device == "cpu" else f"{row.kind} ({row.device})"
    megabytes = "" if row.megabytes is None else f"{row.megabytes:.1f}"
    ap = "-" if row.ap is None else f"{row.ap:.4f}"
    return (
        f"{name:<{wide}}  {runs_on:<24} {row.model.removeprefix('efficientdet_'):<18} {size:>9}  "
        f"{row.threads:>7} {megabytes:>7} {row.memory:>5.0f} MB {ap:>6}"
    )


def _title(timing: Timing) -> str:
    title = f"{STAGES[timing.stage]}, batch {timing.batch_size}"
    return f"\n{title}\n  {'':<24} median      p90      p99  images/s  ratio"


def _line(name: str, timing: Timing, wide: int) -> str:
    return (
        f"  {name:<24} {timing.median:6.1f} ms {timing.p90:6.1f} ms {timing.p99:6.1f} ms "
        f"{timing.images_per_second:8.1f} {timing.ratio:6.2f}"
    )
