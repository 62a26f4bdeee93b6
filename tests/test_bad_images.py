# SPDX-License-Identifier: Apache-2.0
"""Bad images in whole runs: a few cost a warning, many end the run with code 3."""

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import train
import validate
from effdet.errors import run
from effdet.weights import load_checkpoint
from tests.runs import program, tiny_coco, torchrun
from tests.test_resume_runs import Stopping, go_on, same_end, start
from tests.tiny import TINY, tiny_model, train_here

QUICK = (*TINY, "--epochs", "2", "--batch-size", "2", "--lr", "0.02", "--ema-decay", "0")


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_model():
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "sound", images=10)


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> Path:
    """Ten images in each split; one of each is cut off."""
    folder = Path(shutil.copytree(sound, tmp_path / "data"))
    spoil(folder, "train", 4)
    spoil(folder, "val", 7)
    return folder


def spoil(data: Path, split: str, *numbers: int) -> None:
    for number in numbers:
        file = data / split / f"{number}.png"
        file.write_bytes(file.read_bytes()[:200])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def warnings_of(folder: Path) -> list[str]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line.removeprefix("DLLL ")) for line in lines]
    found = [e["data"]["message"] for e in entries if e.get("step") == "WARNING"]
    return [text for text in found if "png" in text]


def test_a_run_goes_on_without_a_bad_image_and_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", data, *QUICK, "--max-bad-images", "0.1", "--output", tmp_path / "run")
    assert train_here(*words) == 0
    told = warnings_of(tmp_path / "run")
    assert len(told) == 2
    assert f"{data}/train/4.png: cannot decode the image" in told[0]
    assert f"{data}/val/7.png: cannot decode the image" in told[1]
    last = rows(tmp_path / "run")[-1]
    assert (last["bad_images"], last["bad_val_images"]) == ("1", "1")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["bad_images"]) == ("finished", 2)
    out, err = capsys.readouterr()
    assert "1 of 10 training images bad: others took their places" in out
    assert "1 of 10 validation images bad: AP is without them, too low" in out
    assert "1 bad image replaced  AP without 1 bad image: too low" in out
    assert err.count("4.png") == 1
    assert load_checkpoint(tmp_path / "run" / "last.pt").metrics["bad_val_images"] == 1


def test_many_bad_images_end_the_run_and_are_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(data, "train", 2, 9)
    words = ("--data", data, *QUICK, "--max-bad-images", "0.2", "--output", tmp_path / "run")
    assert train_here(*words) == 3
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 3
    err = capsys.readouterr().err
    assert "3 of 10 images cannot be used, more than --max-bad-images 0.2 allows: " in err
    for number in (2, 4, 9):
        assert f"train/{number}.png" in err.splitlines()[-1]


def test_by_default_a_hundredth_may_be_bad(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here("--data", data, *QUICK, "--output", tmp_path / "run") == 3
    assert "1 of 10 images cannot be used, more than --max-bad-images 0.01" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(("workers", "stop_at"), [("0", 2), ("1", 4)])
def test_a_run_that_goes_on_is_the_uninterrupted_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str, stop_at: int
) -> None:
    monkeypatch.setattr(train, "Control", Stopping)
    words = ("--data", data, *QUICK, "--max-bad-images", "0.1", "--workers", workers)
    assert start(tmp_path / "whole", *words) == 0
    assert start(tmp_path / "parts", *words, stop_at=stop_at) == 143
    assert go_on(tmp_path / "parts", "--workers", "0") == 0
    same_end(tmp_path / "parts", tmp_path / "whole")
    assert warnings_of(tmp_path / "parts") == warnings_of(tmp_path / "whole")  # each once
    assert rows(tmp_path / "parts")[-1]["bad_images"] == "1"


def test_a_strip_of_pixels_is_trained_on(sound: Path, tmp_path: Path) -> None:
    """Images of 1 x 1, 5000 x 1 and 1 x 5000 pixels give no size 0 and no NaN."""
    data = Path(shutil.copytree(sound, tmp_path / "data"))
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for record, box, (width, height) in zip(
            content["images"], content["annotations"], [(1, 1), (5000, 1), (1, 5000)]
        ):
            record |= {"width": width, "height": height}
            box |= {"bbox": [0, 0, width, height], "area": width * height}
            Image.new("RGB", (width, height), "red").save(data / split / record["file_name"])
        file.write_text(json.dumps(content))
    words = ("--data", data, *QUICK, "--output", tmp_path / "run")
    assert train_here(*words) == 0
    for row in rows(tmp_path / "run"):
        assert float(row["skipped"]) == 0
        assert float(row["loss"]) < 1e6
        assert row["bad_images"] == "0"


# validate.py
def validated(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["validate.py", *map(str, words)])
        try:
            run(validate.main, "validate.py")
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def test_validation_refuses_a_bad_image_or_counts_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_words = ("--data", data, *QUICK, "--max-bad-images", "0.1", "--output", tmp_path / "run")
    assert train_here(*run_words) == 0
    weights = ("--data", data, "--weights", tmp_path / "run" / "last.pt", "--workers", "0")
    capsys.readouterr()
    assert validated(*weights) == 3
    assert "val/7.png: cannot decode" in capsys.readouterr().err
    file = tmp_path / "figures.json"
    assert validated(*weights, "--max-bad-images", "0.1", "--metrics", file) == 0
    out, err = capsys.readouterr()
    assert "1 of them are bad: their boxes count as missed" in out
    assert f"warning: {data}/val/7.png: cannot decode" in err
    figures = json.loads(file.read_text())
    assert (figures["images"], figures["bad_images"]) == (10, 1)


@pytest.mark.slow
def test_two_processes_report_the_bad_images_of_both(data: Path, tmp_path: Path) -> None:
    spoil(data, "train", 1, 8)
    words = ("train.py", "--data", data, "--model", "efficientdet_lite0", "--image-size", "64")
    words += ("--epochs", "2", "--batch-size", "2", "--workers", "1", "--device", "cpu")
    done = torchrun(2, *words, "--max-bad-images", "0.3", "--output", tmp_path / "run")
    assert {Path(text.split(": ")[0]).name for text in warnings_of(tmp_path / "run")} == {
        "1.png", "4.png", "8.png", "7.png",
    }  # fmt: skip
    assert rows(tmp_path / "run")[-1]["bad_images"] == "3"
    assert "3 of 10 training images bad" in done.stdout
    failed = torchrun(
        2, *words, "--max-bad-images", "0.2", "--output", tmp_path / "failed", check=False
    )
    assert failed.returncode == 1
    assert "3 of 10 images cannot be used" in failed.stderr
    weights = ("--data", data, "--weights", tmp_path / "run" / "last.pt", "--device", "cpu")
    done = torchrun(2, "validate.py", *weights, "--max-bad-images", "0.1")
    assert "1 of them are bad" in done.stdout
    assert program("validate.py", *weights, check=False).returncode == 3
