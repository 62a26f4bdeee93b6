# SPDX-License-Identifier: Apache-2.0
"""From a folder of labelled images to a file that runs elsewhere: each command prints the next."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, tiny_coco

SMALL = ["--model", "efficientdet_lite0", "--image-size", "64", "--epochs", "1", "--workers", "0"]
SMALL += ["--batch-size", "2", "--device", "cpu"]


def run(words: list[str], folder: Path) -> str:
    """What a command prints; ``effdet`` and ``python`` are those of this test."""
    program = [sys.executable, "-m", "effdet.cli"] if words[0] == "effdet" else [sys.executable]
    if words[0] == "python":
        words[1] = str((folder / words[1]).resolve())
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def next_of(text: str) -> list[str]:
    """The words after ``next:`` in what a command printed."""
    (line,) = re.findall(r"^next: (.*)$", text, re.M)
    return shlex.split(line)


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_four_commands_each_of_which_prints_the_next(form: str, tmp_path: Path) -> None:
    tiny_coco(tmp_path / "coco", images=4)
    words = next_of(run(["effdet", "convert-data", "coco", "mydata", "--to", form], tmp_path))
    assert words == ["effdet", "check", "mydata"]
    train = next_of(run(words, tmp_path))
    assert train[0] == "python"
    assert (tmp_path / train[1]).samefile(ROOT / "train.py")
    assert train[train.index("--data") + 1] == "mydata"
    weights = train.index("--weights")  # which would be fetched
    assert train[weights + 1].startswith("tf_efficientdet_")
    del train[weights : weights + 2]
    report = next_of(run([*train, *SMALL], tmp_path))
    assert report[:2] == ["effdet", "report"]
    export = next_of(run(report, tmp_path))
    assert export[:2] == ["effdet", "export"]
    predict = next_of(run(export, tmp_path))
    assert predict[:2] == ["effdet", "predict"]

    folder = tmp_path / report[2]
    assert "<html" in (folder / "report.html").read_text()
    exported = Path(predict[predict.index("--weights") + 1])
    assert exported.suffix == ".onnx"
    benchmark = next_of(run(predict, tmp_path))  # on the images that the run was validated on
    assert benchmark == ["effdet", "benchmark", str(exported)]
    assert (tmp_path / "out" / "predictions.json").is_file()
