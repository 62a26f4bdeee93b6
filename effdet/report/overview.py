# SPDX-License-Identifier: Apache-2.0
"""What a run was: its figures, its settings, the machine."""

import shlex
from collections.abc import Sequence

from effdet.evaluation import LEAST_AP
from effdet.page import Cell, Section
from effdet.report.run import RunRecord, number, share

_STATES = {
    "finished": "finished",
    "failed": "ended by an error",
    "preempted": "ended by a signal",
    "interrupted": "interrupted",
}
LOW_AP = 0.02
"""AP below which the page says what to look at."""

_NOTHING_FOUND = "AP is practically 0: the model finds almost nothing yet."
_LITTLE_FOUND = "AP is very low: the model finds little yet, and that with low scores."
_LOOK_AT = (
    "Where the loss still falls, it needs more epochs (small data sets: 50 and more, from "
    "--weights). Where it does not, look at First batches (do the boxes sit on their objects?) and "
    "at Errors (many boxes misplaced or of a wrong class: the annotations of the two splits do not "
    "mean the same). effdet check names faults of the data."
)
_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


def summary_facts(run: RunRecord) -> dict[str, Cell]:
    """The figures at the head of the page, without those that the run has not kept."""
    best, labels = run.best_epoch, run.labels
    first = run.starts[0] if run.starts else {}
    epochs = run.status.get("epochs")
    classes = labels.get("train", {}).get("classes")
    facts: dict[str, Cell] = {
        "best AP": share(best.get("AP")),
        "AP50": share(best.get("AP50")),
        "best epoch": count(best.get("epoch")),
        "epochs done": f"{len(run.epochs)}" + (f" of {epochs}" if epochs else ""),
        "state": _state(run),
        "time": duration(run.seconds),
        "model": run.setting("model"),
        "data": run.setting("data"),
        "training images": count(labels.get("train", {}).get("images")),
        "validation images": count(labels.get("val", {}).get("images")),
        "classes": count(len(classes) or None) if isinstance(classes, list) else None,
        "started": str(first.get("time") or "")[:16].replace("T", " ") or None,
        "device": _device(first),
    }
    return {name: value for name, value in facts.items() if value is not None}


def add_summary(section: Section, run: RunRecord) -> None:
    """Facts, the command and what is missing."""
    section.facts(summary_facts(run))
    for note in run.notes:
        section.note(note)
    if not run.best_epoch:
        section.note("No epoch was validated: there are curves of the training alone.")
    elif run.best_ap < LOW_AP:
        found = _NOTHING_FOUND if run.best_ap < LEAST_AP else _LITTLE_FOUND
        section.note(f"{found} {_LOOK_AT}")
    error = run.status.get("error")
    if error:
        section.note(f"The run ended with: {error}")
    if run.starts:
        words = run.starts[-1].get("arguments")
        section.text("Started with:" if len(run.starts) == 1 else "Last started with:")
        section.command("python " + shlex.join(map(str, words if isinstance(words, list) else [])))


def add_settings(section: Section, run: RunRecord) -> None:
    """All settings, and the versions of what ran."""
    rows = [[name, run.setting(name)] for name in run.settings]
    section.table(["setting", "value"], rows)
    versions = run.starts[-1].get("versions") if run.starts else None
    if isinstance(versions, dict):
        found = [[str(name), str(value)] for name, value in versions.items() if value]
        section.heading("Versions").table(["package", "version"], found)


def figure_row(run: RunRecord) -> list[Cell]:
    """The figures of the best epoch, for a table of runs."""
    best = run.best_epoch
    return [
        run.name,
        *(share(best.get(name)) for name in _FIGURES),
        count(best.get("epoch")),
        str(len(run.epochs)),
        duration(run.seconds),
        _state(run),
    ]


FIGURE_HEADER = ["run", *_FIGURES, "best epoch", "epochs", "time", "state"]


def differing_settings(runs: Sequence[RunRecord]) -> list[list[Cell]]:
    """The settings that are not the same in all runs, a row each."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows: list[list[Cell]] = [
        [name, *(run.setting(name) if name in run.settings else None for run in runs)]
        for name in names
        if name != "output"
    ]
    return [row for row in rows if len(set(row[1:])) > 1]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that are not 0."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count(value: object) -> str | None:
    """A whole number; None is a dash."""
    found = number(value)
    return None if found is None else f"{found:,.0f}"


def _state(run: RunRecord) -> str:
    state = str(run.status.get("state", "unknown"))
    return _STATES.get(state, f"{state}, or killed while {state}")


def _device(start: dict[str, object]) -> str | None:
    gpus, processes = start.get("gpus"), start.get("world_size", 1)
    if isinstance(gpus, list) and gpus:
        gpu = gpus[0]
        name = gpu.get("name", "GPU") if isinstance(gpu, dict) else gpu
        return f"{processes} x {name}"
    cpu = start.get("cpu")
    if isinstance(cpu, dict):
        return str(cpu.get("model", "CPU"))
    return str(start["device"]) if start.get("device") else None
