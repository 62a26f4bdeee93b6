# SPDX-License-Identifier: Apache-2.0
"""Charts of how a training went."""

from collections.abc import Sequence

from effdet.page import Figure
from effdet.page.charts import Series, line_chart, smooth
from effdet.report.run import RunRecord, number

MOST_POINTS = 600
"""Of a raw curve; of a longer one, means of neighbours."""
FEW_POINTS = 10
"""Each point of a curve with so few is marked: one alone would be no line."""
WINDOWS = 25
"""A smoothed value is the mean over this part of the curve."""

Points = tuple[list[float], list[float | None]]


def training_figures(runs: Sequence[RunRecord]) -> list[Figure]:
    """Curves of one run, or of several in one chart each; those without a value are left out."""
    charts = [
        _steps(runs, "loss", "Loss on the training images."),
        _steps(runs, "cls_loss", "Its part for the classes."),
        _steps(runs, "box_loss", "Its part for the boxes, before its weight."),
        *(_validations(runs[0]) if len(runs) == 1 else _compared(runs)),
        _steps(runs, "lr", "Learning rate.", smoothed=False),
        _steps(runs, "grad_norm", "Norm of the gradient before it is clipped."),
        _steps(runs, "images_per_second", "Images a second, by logged step."),
    ]
    return [chart for chart in charts if chart is not None]


def _validations(run: RunRecord) -> list[Figure | None]:
    """COCO figures by epoch."""
    groups = {
        ("AP", "AP50", "AP75"): "On the validation images, after each epoch that was validated.",
        ("APs", "APm", "APl"): "AP of small, medium and large boxes.",
        ("AP_ema", "AP_raw"): "AP of averaged and of raw weights.",
    }
    charts = []
    for names, caption in groups.items():
        points = {name: _epoch_points(run, name) for name in names}
        lines = [Series(name=name, x=x, y=y, dots=True) for name, (x, y) in points.items() if x]
        if names != ("AP_ema", "AP_raw") or len(lines) == 2:  # one kind of weights is AP itself
            charts.append(_figure(lines, "AP", caption))
    return charts


def _compared(runs: Sequence[RunRecord]) -> list[Figure | None]:
    return [
        _figure(
            [
                Series(name=run.name, x=x, y=y, color=color, dots=True)
                for color, run in enumerate(runs)
                for x, y in [_epoch_points(run, name)]
            ],
            name,
            f"{name} on the validation images, after each epoch that was validated.",
        )
        for name in ("AP", "AP50", "APs")
    ]


def _steps(
    runs: Sequence[RunRecord], name: str, caption: str, *, smoothed: bool = True
) -> Figure | None:
    """The values of steps, over epochs."""
    lines: list[Series] = []
    for color, run in enumerate(runs):
        x, y = _thin(*_step_points(run, name))
        label = run.name if len(runs) > 1 else name
        window = len(y) // WINDOWS
        if smoothed and window >= 2:
            lines.append(Series(name="", x=x, y=y, color=color, faint=True))
            y = smooth(y, window)
        lines.append(Series(name=label, x=x, y=y, color=color, dots=len(y) <= FEW_POINTS))
    pale = " Smoothed, the raw values pale." * any(line.faint for line in lines)
    return _figure(lines, name, caption + pale)


def _step_points(run: RunRecord, name: str) -> Points:
    """Where in the run, in epochs, and the value; of epochs where no step was logged."""
    steps = [(epoch, step, number(values.get(name))) for epoch, step, values in run.steps]
    steps = [entry for entry in steps if entry[2] is not None]
    if not steps:
        rows = [(number(row.get("epoch")), number(row.get(name))) for row in run.epochs]
        return [e for e, _ in rows if e is not None], [v for e, v in rows if e is not None]
    lengths = _steps_by_epoch(run)
    places = [epoch - 1 + step / lengths[epoch] for epoch, step, _ in steps]
    return places, [value for _, _, value in steps]


def _steps_by_epoch(run: RunRecord) -> dict[int, float]:
    """How many steps each epoch of ``run.steps`` has.

    As the table says, for the epoch that has not ended as the status says, and in runs that say
    neither as many as the last step that any epoch has logged.
    """
    last: dict[int, int] = {}
    for epoch, step, _ in run.steps:
        last[epoch] = max(step, last.get(epoch, 1))
    usual = number(run.status.get("steps")) or max(last.values(), default=1)
    told = {row.get("epoch"): number(row.get("steps")) for row in run.epochs}
    return {epoch: max(told.get(epoch) or usual, step) for epoch, step in last.items()}


def _epoch_points(run: RunRecord, name: str) -> Points:
    rows = [(number(row.get("epoch")), number(row.get(name))) for row in run.epochs]
    found = [(epoch, value) for epoch, value in rows if epoch is not None and value is not None]
    return [epoch for epoch, _ in found], [value for _, value in found]


def _figure(lines: Sequence[Series], title: str, caption: str) -> Figure | None:
    if not any(y is not None for line in lines for y in line.y):
        return None
    last = max([x for line in lines for x in line.x], default=0) or 1
    chart = line_chart(
        lines, title=f"{title}: {caption}", x_label="epoch", y_label=title, x_range=(0, last)
    )
    return Figure(svg=chart, caption=caption)


def _thin(x: Sequence[float], y: Sequence[float | None]) -> Points:
    """At most :data:`MOST_POINTS` of them: means of so many neighbours."""
    size = -(-len(x) // MOST_POINTS) or 1
    starts = range(0, len(x), size)
    ends = [min(start + size, len(x)) for start in starts]
    return [x[end - 1] for end in ends], [_mean(y[a:b]) for a, b in zip(starts, ends)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
