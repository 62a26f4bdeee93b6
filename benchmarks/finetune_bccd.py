# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on a small set: from an ImageNet backbone, in one phase and two, and from scratch.

    OMP_NUM_THREADS=1 python benchmarks/finetune_bccd.py DATA BACKBONE_WEIGHTS FOLDER

DATA: blood cells (BCCD) in COCO layout. FOLDER: keeps a run folder for each of :data:`RUNS`; those
that have finished there are not run again. A run takes about 11 minutes on one core of its own.
Writes benchmarks/results/finetune_bccd.json, with every validation, and finetune_bccd.png.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from measuring import RESULTS, machine, write_result
from PIL import Image, ImageDraw
from record_run import ROOT, command_of, read_epochs

COMMON = (
    "--model", "efficientdet_lite0", "--image-size", "256", "--epochs", "14", "--batch-size", "4",
    "--optimizer", "adamw", "--lr", "0.016", "--warmup-lr", "0.0016", "--ema-decay", "0.998",
    "--jitter-min", "0.5", "--jitter-max", "1.5", "--eval-every", "2", "--eval-weights", "ema",
    "--workers", "0", "--device", "cpu", "--console", "lines", "--seed", "0",
)  # fmt: skip
TWO_PHASES = ("--freeze-epochs", "3", "--unfreeze-lr-factor")
RUNS: dict[str, tuple[str, ...]] = {
    "one_phase": (),
    "two_phase_half_rate": (*TWO_PHASES, "0.5"),
    "two_phase_full_rate": (*TWO_PHASES, "1"),
    "scratch": (),
    "one_phase_slow_backbone": ("--lr-factors", "backbone=0.1"),
}
"""Options of each run beside the common ones; all but ``scratch`` begin with the backbone."""

COLORS = {
    "one_phase": "#2471a3",
    "two_phase_half_rate": "#e67e22",
    "two_phase_full_rate": "#8e44ad",
    "scratch": "#777777",
}
"""Of the runs in the picture."""


def main() -> None:
    """Run what is not there yet and write the result."""
    data, backbone, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    runs: dict[str, Any] = {}
    for name, options in RUNS.items():
        begin = () if name == "scratch" else ("--backbone-weights", backbone)
        words = ("--data", data, *COMMON, *begin, *options)
        if not has_finished(folder / name):
            command = [sys.executable, "train.py", *words, "--output", str(folder / name)]
            subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        start = json.loads((folder / name / "environment.json").read_text())[0]
        runs[name] = {
            "started": start["time"],
            "command": shlex.join(["python", *start["arguments"]]),
            "settings": command_of(folder / name, []),
            "epochs": read_epochs(folder / name),
        }
    draw(runs).save(RESULTS / "finetune_bccd.png")
    note = (
        "one seed; seconds are by the clock, and the machine did other work too; runs may be older "
        "than the commit and the date above, which are of this summary"
    )
    write_result("finetune_bccd", {"machine": machine(), "note": note, "runs": runs})
    for name, run in runs.items():
        print(name, *(f"{row['AP']:.3f}" for row in validated(run)))


def has_finished(folder: Path) -> bool:
    """Whether a run is there and done."""
    status = folder / "status.json"
    return status.is_file() and json.loads(status.read_text())["state"] == "finished"


def validated(run: dict[str, Any]) -> list[dict[str, float]]:
    """The rows of the epochs that were validated."""
    return [row for row in run["epochs"] if row["AP"] is not None]


def draw(runs: dict[str, Any]) -> Image.Image:
    """AP on the left and AP50 on the right over epochs, a colour a run."""
    image = Image.new("RGB", (1040, 440), "white")
    canvas = ImageDraw.Draw(image)
    for number, (figure, top) in enumerate((("AP", 0.5), ("AP50", 1.0))):
        draw_panel(canvas, runs, figure, top, (60 + 520 * number, 70, 500 + 520 * number, 390))
    for number, (name, color) in enumerate(COLORS.items()):
        x = 60 + 240 * number
        canvas.line([(x, 20), (x + 30, 20)], color, 4)
        canvas.text((x + 38, 14), name.replace("_", " "), "black")
    return image


def draw_panel(
    canvas: ImageDraw.ImageDraw,
    runs: dict[str, Any],
    figure: str,
    top: float,
    area: tuple[int, int, int, int],
) -> None:
    """One figure of all runs, from 0 to ``top``, within ``area`` (left, top, right, bottom)."""
    left, upper, right, lower = area
    last = max(row["epoch"] for run in runs.values() for row in run["epochs"])
    canvas.text((left, upper - 24), f"{figure} over epochs (to {last:.0f})", "black")
    for fifth in range(6):
        y = lower - (lower - upper) * fifth / 5
        canvas.line([(left, y), (right, y)], "#dddddd")
        canvas.text((left - 30, y - 6), f"{top * fifth / 5:.1f}", "#555555")
    for name, color in COLORS.items():
        points = [
            (
                left + (right - left) * row["epoch"] / last,
                lower - (lower - upper) * row[figure] / top,
            )
            for row in validated(runs[name])
        ]
        canvas.line(points, color, 3)
        for x, y in points:
            canvas.ellipse([x - 4, y - 4, x + 4, y + 4], color)


if __name__ == "__main__":
    main()
