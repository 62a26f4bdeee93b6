# SPDX-License-Identifier: Apache-2.0
"""What the benchmark programs share: timing in turn, and the form of a result file."""

import datetime
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from effdet.ops import build_info

_INSIDE = {"detections": True, "score_threshold": 0.001}
FORMS: dict[str, dict[str, Any]] = {
    "onnxruntime": {"format": "onnx"},
    "onnxruntime, NMS inside": {"format": "onnx", **_INSIDE},
    "OpenVINO": {"format": "openvino"},
    "OpenVINO, NMS inside": {"format": "openvino", **_INSIDE},
    "torch.export": {"format": "torch-export"},
    "AOTInductor": {"format": "aoti"},
}
"""What ``effdet export`` writes, by its runtime, with the settings of each."""

RESULTS = Path(__file__).parent / "results"


def best_in_turn(
    subjects: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 15,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Shortest time of each subject in milliseconds, by default CPU time.

    All take their turn in every round, so that whatever else the machine does hits them alike, and
    their ratios carry over to other machines.
    """
    for run in subjects.values():
        run()  # what happens only once: compilation, memory
    times = dict.fromkeys(subjects, float("inf"))
    for _ in range(rounds):
        for name, run in subjects.items():
            start = clock()
            run()
            times[name] = min(times[name], clock() - start)
    return {name: 1e3 * seconds for name, seconds in times.items()}


def write_result(name: str, figures: Mapping[str, Any]) -> None:
    """Write results/NAME.json: the figures, and where, when and how they were measured."""
    # Without folders of the machine.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv]
    words[0] = Path(words[0]).name
    result = {
        "command": "python benchmarks/" + " ".join(words),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "build": build_info(),
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")


def machine() -> str:
    """Processor, threads and torch in a line."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    name = model.group(1) if model else platform.processor()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"


def commit() -> str:
    """The commit that was measured, with a plus where files other than results differ from it."""
    try:
        name = git("rev-parse", "--short=10", "HEAD")
        changes = git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + "+" * bool(changes)


def git(*words: str) -> str:
    """What git says in this repository."""
    root = Path(__file__).parents[1]
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()
