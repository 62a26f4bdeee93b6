# SPDX-License-Identifier: Apache-2.0
"""Run a training, then validate its best weights: figures, time, memory and the curve.

    python benchmarks/record_run.py NAME RUN_FOLDER -- TRAINING OPTIONS
    python benchmarks/record_run.py NAME RUN_FOLDER            # a run that has finished already

Writes benchmarks/results/NAME.json and the curve as NAME.png. Memory is that of the training
process and its workers together; times are by the clock.
"""

import csv
import datetime
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from effdet import flags
from effdet.settings import TrainConfig

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run what is asked for and write the result."""
    name, folder, options = sys.argv[1], Path(sys.argv[2]), sys.argv[4:]
    result: dict[str, Any] = {
        "machine": machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "training_command": command_of(folder, options),
    }
    if options:
        words = [sys.executable, "train.py", *options, "--output", str(folder)]
        result["memory_mb_by_tenths_of_the_run"] = run_sampled(words)
    result["training_seconds"] = round(float(read_log(folder)[-1]["elapsedtime"]))
    config = flags.load_yaml(TrainConfig, folder / "config.yaml")
    result["validation"] = validate(folder, config["data"])
    epochs = read_epochs(folder)
    result["epochs"] = epochs
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_curve(epochs).save(RESULTS / f"{name}.png")
    print(json.dumps({k: v for k, v in result.items() if k != "epochs"}, indent=1))


def command_of(folder: Path, options: list[str]) -> str:
    """The training command: as given, or out of the finished run's settings."""
    if options:
        return shlex.join(["python", "train.py", *options])
    config = flags.load_yaml(TrainConfig, folder / "config.yaml")
    default = TrainConfig()
    words = ["python", "train.py"]
    for key, value in config.items():
        if value != getattr(default, key) and key not in ("output", "resume"):
            values = value if isinstance(value, tuple) else (value,)
            words += ["--" + key.replace("_", "-"), *map(str, values)]
    return shlex.join(words)


def run_sampled(words: list[str]) -> list[int]:
    """Run a command; memory of its process tree in MB, a mean for each tenth of its time."""
    process = subprocess.Popen(words, cwd=ROOT)
    samples = []
    while process.poll() is None:
        samples.append(tree_memory(process.pid) / 1e6)
        time.sleep(1)
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    ends = [len(samples) * tenth // 10 for tenth in range(11)]
    parts = [samples[a : max(b, a + 1)] for a, b in itertools.pairwise(ends)]
    return [round(sum(part) / len(part)) for part in parts]


def tree_memory(pid: int) -> int:
    """Bytes of a process and all below it; a page that several share counts once."""
    total = 0
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(rollup.split("\nPss:")[1].split()[0]) * 1024
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):  # it has just ended
        return total
    return total + sum(tree_memory(int(child)) for child in children)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of the run's log."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line.removeprefix("DLLL ")) for line in lines]


def validate(folder: Path, data: str) -> dict[str, Any]:
    """Figures of the best weights by validate.py, and its time."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "metrics.json"
        words = ["validate.py", "--data", data, "--weights", str(folder / "best.pt")]
        start = time.perf_counter()
        subprocess.run([sys.executable, *words, "--metrics", str(file)], cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
        figures = json.loads(file.read_text())
    return {
        "command": shlex.join(["python", *words]), "seconds": round(seconds), "figures": figures
    }  # fmt: skip


def read_epochs(folder: Path) -> list[dict[str, float | None]]:
    """The rows of ``metrics.csv``, with the seconds since the start at which each was done."""
    seconds = {
        record["step"][0]: float(record["elapsedtime"])
        for record in read_log(folder)
        if isinstance(record.get("step"), list) and len(record["step"]) == 1
    }
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    epochs: list[dict[str, float | None]] = []
    for row in rows:
        row.pop("weights")  # whose figures they are, in a word
        figures = {key: round(float(value), 6) if value else None for key, value in row.items()}
        epochs.append({**figures, "seconds": round(seconds[int(row["epoch"])])})
    return epochs


def draw_curve(epochs: list[dict[str, float | None]]) -> Image.Image:
    """AP50 (orange), AP (blue) and the training loss (grey) over epochs."""
    width, height, edge = 720, 400, 48
    image = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(image)
    last = max(row["epoch"] or 1 for row in epochs)
    top_loss = max(row["loss"] or 0 for row in epochs)
    for tenth in range(0, 11, 2):
        y = height - edge - (height - 2 * edge) * tenth / 10
        canvas.line([(edge, y), (width - edge, y)], "#dddddd")
        canvas.text((12, y - 6), f"{tenth / 10:.1f}", "#555555")
    lines = (("loss", top_loss, "#999999"), ("AP50", 1.0, "#e67e22"), ("AP", 1.0, "#2471a3"))
    for number, (key, most, color) in enumerate(lines):
        points = [
            (
                edge + (width - 2 * edge) * (row["epoch"] or 0) / last,
                height - edge - (height - 2 * edge) * value / most,
            )
            for row in epochs
            if (value := row[key]) is not None
        ]
        canvas.line(points, color, 3)
        for x, y in points:
            canvas.ellipse([x - 4, y - 4, x + 4, y + 4], color)
        text = f"{key} (top {top_loss:.2f})" if key == "loss" else key
        canvas.text((edge + 140 * number, 16), text, color)
    canvas.text((width // 2 - 20, height - 24), f"epoch (to {last:.0f})", "#555555")
    return image


def machine() -> str:
    """Processor and its count, system and Python, torch."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    return (
        f"{model}, {os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
