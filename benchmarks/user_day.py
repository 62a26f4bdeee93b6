# SPDX-License-Identifier: Apache-2.0
"""From a VOC or YOLO folder to a model, a report and an ONNX file: the four commands, for real.

    OMP_NUM_THREADS=1 python benchmarks/user_day.py DATA BACKBONE_WEIGHTS FOLDER [--epochs 12]

DATA (any layout, with train and val) is converted to each form; then ``effdet check`` is typed, and
after that what each command prints as the next. Only training is typed with more than was printed:
the weights are a file instead of a name that would be fetched, and the sizes are those of a CPU.
The exported file is then validated like the weights. FOLDER keeps everything. Writes
results/user_day.json.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measuring import write_result

ROOT = Path(__file__).parents[1]
FORMS = ("voc", "yolo")
SMALL = (
    "--model", "efficientdet_lite0", "--image-size", "256", "--batch-size", "4", "--optimizer",
    "adamw", "--lr", "0.016", "--warmup-lr", "0.0016", "--ema-decay", "0.998", "--workers", "0",
    "--device", "cpu", "--console", "lines",
)  # fmt: skip
LIMIT = 1e-3
"""Largest difference of the AP of the exported file and of the weights."""


def main() -> None:
    """Go through the day once a form and write what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("backbone", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    arguments = parser.parse_args()
    backbone, epochs = str(arguments.backbone.resolve()), str(arguments.epochs)
    more = ("--backbone-weights", backbone, *SMALL, "--epochs", epochs)
    days = {}
    for form in arguments.forms:
        folder = arguments.folder.resolve() / form
        folder.mkdir(parents=True)
        type_command(
            ["effdet", "convert-data", str(arguments.data.resolve()), "mydata", "--to", form],
            folder,
        )
        days[form] = go_through(folder, more)
        print(form, json.dumps(days[form], indent=1), flush=True)
    note = "seconds are by the clock, and the machine did other work too"
    write_result("user_day", {"data": arguments.data.name, "note": note, **days})
    faults = [
        f"{form}: AP {day['AP of the ONNX file']} of the ONNX file, {day['AP']} of the weights"
        for form, day in days.items()
        if abs(day["AP of the ONNX file"] - day["AP"]) > LIMIT
    ]
    if faults:
        raise SystemExit("\n".join(faults))


def go_through(folder: Path, more: tuple[str, ...]) -> dict[str, Any]:
    """The four commands in ``folder``, of which each but the first was printed by the one before.

    Args:
        folder: holds ``mydata``.
        more: options that training gets instead of the weights' name.
    """
    check = type_command(["effdet", "check", "mydata"], folder)
    printed = next_of(check)
    train = list(printed)
    place = train.index("--weights")
    train[place : place + 2] = more
    training = type_command(train, folder)
    report = type_command(next_of(training), folder)
    export = type_command(next_of(report), folder)
    steps = [check, training, report, export]
    run = folder / next_of(training)[2]
    weights = next(word for word in next_of(report) if word.endswith(".pt"))
    (file,) = {word for word in next_of(export) if word.endswith(".onnx")}
    figures = {name: validate(folder, name) for name in (weights, file)}
    return {
        "commands": [
            {"typed": shorter(step["words"]), "seconds": step["seconds"]} for step in steps
        ],
        "training was printed as": shlex.join(printed),
        "after the export": shorter(next_of(export)),
        "report bytes": (run / "report.html").stat().st_size,
        "ONNX bytes": (folder / file).stat().st_size,
        "check of the export": checks_of(export["output"]),
        "AP": figures[weights]["AP"],
        "AP50": figures[weights]["AP50"],
        "AP of the ONNX file": figures[file]["AP"],
    }


def type_command(words: list[str], folder: Path) -> dict[str, Any]:
    """Run ``words`` in ``folder`` with this Python and this clone; keep what is printed."""
    program = [sys.executable, *words[1:]]
    if words[0] == "effdet":
        program = [sys.executable, "-m", "effdet.cli", *words[1:]]
    else:
        program[1] = str(ROOT / words[1])
    print("$", shlex.join(words), flush=True)
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        program, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout, flush=True)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(words)}: exit code {done.returncode}")
    seconds = round(time.perf_counter() - start)
    return {"words": words, "output": done.stdout, "seconds": seconds}


def next_of(step: dict[str, Any]) -> list[str]:
    """The words after ``next:`` in what a command printed."""
    (line,) = re.findall(r"^next: (.*)$", step["output"], re.M)
    return shlex.split(line)


def shorter(words: list[str]) -> str:
    """A command without folders of the machine."""
    return shlex.join(Path(word).name if Path(word).is_absolute() else word for word in words)


def checks_of(output: str) -> list[str]:
    """What ``effdet export`` said of its comparison with PyTorch."""
    return [
        " ".join(line.split())
        for line in output.splitlines()
        if re.match(r"(raw outputs|detections|checked)\s", line)
    ]


def validate(folder: Path, weights: str) -> dict[str, float]:
    """COCO's figures of ``weights`` on the validation split."""
    metrics = folder / f"{Path(weights).suffix[1:]}_metrics.json"
    words = ["python", "validate.py", "--data", "mydata", "--weights", weights]
    type_command([*words, "--device", "cpu", "--metrics", metrics.name], folder)
    found: dict[str, Any] = json.loads(metrics.read_text())
    return found.get("figures", found)


if __name__ == "__main__":
    main()
