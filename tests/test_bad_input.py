# SPDX-License-Identifier: Apache-2.0
"""What is wrong is told in one line with its exit code, before anything is written."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import train
import validate
from effdet import cli
from effdet.errors import run
from effdet.models import build_model
from effdet.structures import ClassMap
from effdet.weights import Checkpoint, load_checkpoint, save_checkpoint
from tests.runs import tiny_coco

HUGE = 10**400


class Programs:
    """Calls the programs in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def refusal(self, program: str, *words: object) -> tuple[int, str]:
        """Exit code and the one line on stderr of a call that must fail."""
        main = {"train.py": train.main, "validate.py": validate.main, "effdet": cli.main}[program]
        self.monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run(main, program)
        lines = self.capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return int(stop.value.code or 0), lines[0]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Programs:
    return Programs(monkeypatch, capsys)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_coco(tmp_path / "tiny", images=2)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    from effdet.config import model_config

    config = model_config("efficientdet_lite0", image_size=(64, 64), num_classes=2)
    state = build_model(config).state_dict()
    path = tmp_path / "detector.pt"
    class_map = ClassMap(("green", "blue"), (1, 2))
    save_checkpoint(
        Checkpoint(
            model_config=config, class_map=class_map, model=state, ema=None, metrics={}, training={}
        ),
        path,
    )
    return path


def change(data: Path, split: str, edit: Any) -> Path:
    file = data / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    "words",
    [
        ["--sigma", "nan"],
        ["--gamma", "inf"],
        ["--jitter-max", "inf"],
        ["--warmup-lr", "inf"],
        ["--weight-decay", "inf"],
        ["--lr", "inf"],
        ["--seed", "-1"],
        ["--amp-dtype", "bfloat16"],
        ["--device", "meta"],
    ],
)
def test_values_that_cannot_work_are_refused_at_once(
    programs: Programs, data: Path, tmp_path: Path, words: list[str]
) -> None:
    code, line = programs.refusal("train.py", "--data", data, "--output", tmp_path / "r", *words)
    assert code == 2
    assert words[0].removeprefix("--").replace("-", "_") in line.replace("-", "_")
    assert not (tmp_path / "r").exists()


def test_resume_belongs_on_the_command_line(programs: Programs, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("resume: runs/other\n")
    code, line = programs.refusal("train.py", "--config", config)
    assert code == 2
    assert "give --resume on the command line" in line


def test_inputs_are_not_written_over(programs: Programs, data: Path, weights: Path) -> None:
    before = weights.read_bytes()
    words = ("--data", data, "--weights", weights)
    code, line = programs.refusal("validate.py", *words, "--metrics", weights)
    assert code == 2
    assert "name another file" in line
    assert weights.read_bytes() == before
    both = weights.with_suffix(".json")
    assert programs.refusal("validate.py", *words, "--metrics", both, "--json", both)[0] == 2


@pytest.mark.parametrize("side", [HUGE, 1e300])
def test_a_huge_box_is_named(programs: Programs, data: Path, side: float) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"][1]["bbox"] = [5, 5, side, 10]

    change(data, "train", edit)
    code, line = programs.refusal("train.py", "--data", data)
    assert code == 3
    assert "annotations[1].bbox" in line


def test_a_huge_area_is_named(programs: Programs, data: Path) -> None:
    file = change(data, "val", lambda content: content["annotations"][0].update(area=HUGE))
    code, line = programs.refusal("train.py", "--data", data)
    assert code == 3
    assert f"{file}: annotations[0].area" in line


def test_strict_data_refuses_what_is_repaired(
    programs: Programs, data: Path, tmp_path: Path
) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"][1]["bbox"] = [50, 5, 20, 10]
        del content["annotations"][0]["area"]

    file = change(data, "val", edit)
    code, line = programs.refusal("train.py", "--data", data, "--strict-data")
    assert code == 3
    assert f"{file}: 2 faults (1 x missing area, 1 x box partly outside its image): " in line
    (tmp_path / "r.json").write_text("[]")
    words = ("--annotations", file, "--predictions", tmp_path / "r.json", "--strict-data")
    code, line = programs.refusal("validate.py", *words)
    assert (code, "annotations[0].area: expected an area" in line) == (3, True)


def test_there_must_be_something_to_train_on(programs: Programs, data: Path) -> None:
    file = change(data, "train", lambda content: content.update(annotations=[]))
    code, line = programs.refusal("train.py", "--data", data)
    assert code == 3
    assert f"{file}: annotations: expected at least one box to train on, found none" in line


def test_a_validation_without_boxes_is_told(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = change(data, "val", lambda content: content.update(annotations=[]))
    (tmp_path / "r.json").write_text("[]")
    words = ["validate.py", "--annotations", file, "--predictions", tmp_path / "r.json"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    validate.main()
    assert (
        capsys.readouterr().err == f"{file}: there is no box to be found; all figures are empty\n"
    )


def test_half_a_surrogate_in_a_name_is_refused(programs: Programs, data: Path) -> None:
    change(data, "train", lambda content: content["images"][0].update(file_name="\ud800.png"))
    code, line = programs.refusal("train.py", "--data", data)
    assert code == 3
    assert "images[0].file_name" in line


def test_a_pipe_is_no_image(programs: Programs, weights: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    words = ("--weights", weights, "--output", tmp_path / "out", "--device", "cpu")
    code, line = programs.refusal("effdet", "predict", tmp_path / "pipe.png", *words)
    assert code == 3
    assert "pipe.png: not a regular file" in line


def test_weights_that_are_not_numbers_are_named(
    programs: Programs, data: Path, weights: Path
) -> None:
    values = torch.load(weights, weights_only=True)
    values["model"]["backbone.stem.conv.weight"].fill_(torch.nan)
    values["version"] = 1  # which has no digest
    torch.save(values, weights)
    code, line = programs.refusal("validate.py", "--data", data, "--weights", weights)
    assert code == 4
    assert "backbone.stem.conv.weight" in line


@pytest.mark.parametrize("split", ["*", ""])
def test_an_odd_split_is_a_data_error(programs: Programs, data: Path, split: str) -> None:
    assert programs.refusal("train.py", "--data", data, "--train-split", split)[0] == 3


def test_a_folder_that_cannot_be_made_is_named_by_its_option(
    programs: Programs, data: Path, weights: Path, tmp_path: Path
) -> None:
    output = weights / "below_a_file"
    code, line = programs.refusal(
        "train.py", "--data", data, "--batch-size", "2", "--workers", "0", "--output", output
    )
    assert code == 2
    assert "--output" in line


def test_a_damaged_training_state_is_named(
    programs: Programs, weights: Path, tmp_path: Path
) -> None:
    import dataclasses

    path = tmp_path / "last.pt"
    save_checkpoint(dataclasses.replace(load_checkpoint(weights), training={"epoch": 1}), path)
    code, line = programs.refusal("train.py", "--resume", path)
    assert code == 4
    assert "damaged training state" in line
