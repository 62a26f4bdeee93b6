# SPDX-License-Identifier: Apache-2.0
"""train.py and validate.py from end to end on a few small images."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import train
from effdet.errors import run
from tests.runs import program, tiny_coco, torchrun

SMALL = ("--model", "efficientdet_lite0", "--image-size", "64", "--workers", "0")
QUICK = (*SMALL, "--batch-size", "2", "--epochs", "2", "--warmup-epochs", "0.5", "--lr", "0.02")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def finished_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    program("train.py", "--data", data, *QUICK, "--output", folder)
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(path, weights_only=True)
    return {**checkpoint["model"], **{f"ema.{k}": v for k, v in checkpoint["ema"].items()}}


def test_a_run_folder_holds_config_checkpoints_and_logs(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names == {
        "config.yaml", "environment.json", "last.pt", "previous.pt", "best.pt", "metrics.csv",
        "log.jsonl", "status.json", ".lock", "report",
    }  # fmt: skip
    rows = list(csv.DictReader((finished_run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert json.loads((finished_run / "status.json").read_text())["state"] == "finished"


def test_validate_gives_the_figures_that_training_printed(finished_run: Path, data: Path) -> None:
    figures_file = finished_run.parent / "figures.json"
    program(
        "validate.py", "--data", data, "--weights", finished_run / "last.pt", "--workers", "0",
        "--metrics", figures_file, "--json", finished_run.parent / "results.json",
    )  # fmt: skip
    figures = json.loads(figures_file.read_text())
    rows = list(csv.DictReader((finished_run / "metrics.csv").open()))
    assert figures["AP"] == pytest.approx(float(rows[-1]["AP"]), abs=1e-12)
    assert figures["AR100"] == pytest.approx(float(rows[-1]["AR100"]), abs=1e-12)
    results = json.loads((finished_run.parent / "results.json").read_text())
    assert {entry["category_id"] for entry in results} <= {1, 2}


def test_scoring_the_written_results_gives_the_same_figures(
    finished_run: Path, data: Path, tmp_path: Path
) -> None:
    arguments = ("--data", data, "--weights", finished_run / "best.pt", "--workers", "0")
    program(
        "validate.py", *arguments, "--json", tmp_path / "dt.json", "--metrics", tmp_path / "a.json"
    )
    truth = data / "annotations" / "instances_val.json"
    program(
        "validate.py", "--annotations", truth, "--predictions", tmp_path / "dt.json",
        "--metrics", tmp_path / "b.json", "--evaluator", "pycocotools",
    )  # fmt: skip
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    for name in ("AP", "AP50", "AR1", "AR100"):
        assert first[name] == pytest.approx(second[name], abs=1e-6)


def test_an_existing_run_folder_is_never_overwritten(finished_run: Path, data: Path) -> None:
    before = (finished_run / "last.pt").stat().st_mtime_ns
    done = program("train.py", "--data", data, *QUICK, "--output", finished_run, check=False)
    assert done.returncode == 2
    assert "exists and is not empty" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (finished_run / "last.pt").stat().st_mtime_ns == before


def test_fine_tuning_says_what_was_taken(finished_run: Path, data: Path, tmp_path: Path) -> None:
    done = program(
        "train.py", "--data", data, *QUICK, "--epochs", "1", "--output", tmp_path / "again",
        "--weights", finished_run / "best.pt", "--freeze-bn", "--amp",
    )  # fmt: skip
    line = (
        "backbone 100 % · bifpn 100 % · box head 100 % · class head 2/2 rows by name (green, blue)"
    )
    assert line in done.stdout


def test_the_saved_config_repeats_the_run(finished_run: Path, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    shutil.copy(finished_run / "config.yaml", config)
    program("train.py", "--config", config, "--output", tmp_path / "again")
    again, first = weights(tmp_path / "again" / "last.pt"), weights(finished_run / "last.pt")
    assert all(torch.equal(again[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--modle", "x"], 2, "did you mean --model"),
        (["--model", "efficientdet_d9"], 2, "unknown model 'efficientdet_d9'; did you mean"),
        (["--image-size", "32"], 2, "--image-size must be at least 64"),
        (["--batch-size", "64"], 2, "training set has only 4"),
        (["--data", "nowhere"], 3, "nowhere"),
        (["--weights", "nowhere.pt"], 4, "nowhere.pt: no such weights file"),
        (["--amp", "--amp-dtype", "float16"], 2, "needs a GPU"),
        (["--jitter-min", "3"], 2, "--jitter-min must be above 0"),
        (["--config", "nowhere.yaml"], 2, "nowhere.yaml: no such configuration file"),
        (["--resume", "auto", "--output", ""], 2, "--output"),
        (["--log-to", "no_such_tracker"], 2, "no_such_tracker"),
        (["--multi-scale", "0.5", "2", "--progressive", "2"], 2, "not both"),
        (["--weights", "a.pt", "--backbone-weights", "b.pt"], 2, "not both"),
        (["--lr-noise", "0", "1"], 2, "--lr-noise is part of --schedule nvidia"),
        (["--amp-dtype", "bfloat16"], 2, "--amp-dtype bfloat16 needs --amp"),
        (["--progressive", "9", "--epochs", "3"], 2, "--progressive must be at most the 3 epochs"),
        (["--accumulate", "8"], 2, "training set has only 4"),
        (["--device", "cuda:77"], 2, "cuda:77"),
        (["--batch-size", "auto", "--device", "cpu"], 2, "--batch-size auto needs a GPU"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    output = tmp_path / "run"
    given = ["train.py", "--data", str(data), *SMALL, "--batch-size", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", given + words)
    with pytest.raises(SystemExit) as stop:
        run(train.main, "train.py")
    assert stop.value.code == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not output.exists()


def test_validating_on_other_classes_says_what_to_do(
    finished_run: Path, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    file = other / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 9, "name": "red"})
    file.write_text(json.dumps(content))
    done = program(
        "validate.py", "--data", other, "--weights", finished_run / "best.pt", check=False
    )
    assert done.returncode == 3
    assert "red" in done.stderr


def test_a_truncated_image_is_named(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    image = broken / "train" / "2.png"
    image.write_bytes(image.read_bytes()[:200])
    done = program(
        "train.py", "--data", broken, *QUICK, "--workers", "1", "--output", tmp_path / "run",
        check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "2.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_resuming_from_nowhere_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--resume", "nowhere"])
    with pytest.raises(SystemExit) as stop:
        run(train.main, "train.py")
    assert stop.value.code == 4
    assert "nowhere: no such weights file" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_options(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train.py", "--resume", str(finished_run), "--lr", "0.5", "--seed", "7"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        run(train.main, "train.py")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "last.pt is a run with other settings: --lr 0.5 (was 0.02), --seed 7 (was 0);" in line


def test_weights_for_use_are_not_resumed(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--resume", str(finished_run / "best.pt")])
    with pytest.raises(SystemExit) as stop:
        run(train.main, "train.py")
    assert stop.value.code == 4
    assert f"--weights {finished_run / 'best.pt'}" in capsys.readouterr().err


@pytest.mark.gpu
def test_float16_with_a_scaler_trains_resumes_and_validates_on_a_gpu(
    data: Path, tmp_path: Path
) -> None:
    folder, device = tmp_path / "gpu", ("--device", "cuda")
    torchrun(1, "train.py", "--data", data, *QUICK, "--amp", *device, "--output", folder)
    torchrun(1, "train.py", "--resume", folder, "--epochs", "3")
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    program("validate.py", "--data", data, "--weights", folder / "last.pt", "--amp", *device)


def test_the_annotations_are_not_written_over(finished_run: Path, data: Path) -> None:
    truth = data / "annotations" / "instances_val.json"
    before = truth.read_bytes()
    for option in ("--json", "--metrics"):
        done = program(
            "validate.py", "--data", data, "--weights", finished_run / "last.pt", option, truth,
            check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert "is read or written already" in done.stderr
    assert truth.read_bytes() == before
