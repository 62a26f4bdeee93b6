# SPDX-License-Identifier: Apache-2.0
"""train.py and validate.py on data sets of every format."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import train
import validate
from effdet.data.convert import convert_data
from effdet.errors import DataError
from tests.runs import tiny_coco

SMALL = ["--workers", "0", "--batch-size", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images and boxes in every format; the CSV is of both splits."""
    root = tmp_path_factory.mktemp("formats")
    found: dict[str, Path] = {"coco": tiny_coco(root / "coco", images=2)}
    for to in ("voc", "yolo"):
        found[to] = root / to
        convert_data(found["coco"], found[to], to)  # type: ignore[arg-type]
    found["csv"] = root / "csv"
    convert_data(found["coco"], found["csv"] / "images", "coco")
    lines = ["filename,xmin,ymin,xmax,ymax,class,split"]
    for split in ("train", "val"):
        path = found["coco"] / "annotations" / f"instances_{split}.json"
        for row in json.loads(path.read_text())["annotations"]:
            x, y, width, height = row["bbox"]
            name = ("green", "blue")[row["category_id"] - 1]
            image = f"{split}/{row['image_id']}.png"
            lines.append(f"{image},{x},{y},{x + width},{y + height},{name},{split}")
    (found["csv"] / "boxes.csv").write_text("\n".join(lines))
    return found


def run_train(folder: Path, output: Path, *words: str) -> None:
    more = ["--model", "efficientdet_lite0", "--image-size", "64", "--epochs", "1"]
    argv = ["train.py", "--data", str(folder), *SMALL, *more, "--output", str(output), *words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        train.main()


@pytest.fixture(scope="module")
def weights(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on YOLO labels, whose ids are 0 and 1."""
    output = tmp_path_factory.mktemp("runs") / "yolo"
    run_train(folders["yolo"], output)
    return output / "last.pt"


def detections(folder: Path, weights: Path, output: Path) -> list[dict[str, Any]]:
    argv = ["validate.py", "--data", str(folder), *SMALL, "--weights", str(weights)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*argv, "--json", str(output)])
        validate.main()
    found: list[dict[str, Any]] = json.loads(output.read_text())
    return found


def test_a_model_finds_the_same_in_every_format(
    folders: dict[str, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, not ids, say which class is meant: they differ from format to format."""
    expected = detections(folders["yolo"], weights, tmp_path / "yolo.json")
    assert expected
    figures = [line for line in capsys.readouterr().out.splitlines() if "AP" in line]
    for name in ("voc", "csv"):
        assert detections(folders[name], weights, tmp_path / f"{name}.json") == expected
        said = capsys.readouterr()
        assert [line for line in said.out.splitlines() if "AP" in line] == figures
        assert "2 images (0 without boxes), 2 boxes" in said.err
    with pytest.raises(DataError, match="are not among the model's"):  # COCO goes by ids
        detections(folders["coco"], weights, tmp_path / "coco.json")


@pytest.mark.parametrize("name", ["voc", "csv"])
def test_training_takes_every_format(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    run_train(folders[name], tmp_path / "run")
    assert (tmp_path / "run" / "last.pt").is_file()


def test_training_goes_on_with_a_class_that_only_val_has(tmp_path: Path) -> None:
    coco = tiny_coco(tmp_path / "coco", images=2)
    path = coco / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [row for row in content["annotations"] if row["category_id"] == 1]
    path.write_text(json.dumps(content))
    convert_data(coco, tmp_path / "voc", "voc")
    run_train(tmp_path / "voc", tmp_path / "run")


def test_explicit_csv_files_are_trained_on(folders: dict[str, Path], tmp_path: Path) -> None:
    file, images = str(folders["csv"] / "boxes.csv"), str(folders["csv"] / "images")
    words = []
    for split in ("train", "val"):
        words += [f"--{split}-annotations", file, f"--{split}-images", images]
    run_train(tmp_path, tmp_path / "run", *words)


def test_links_are_followed_where_wanted(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("Annotations", "ImageSets"):
        (tmp_path / "data" / name).symlink_to(folders["voc"] / name)
    (tmp_path / "data" / "JPEGImages").mkdir()
    for path in (folders["voc"] / "JPEGImages").iterdir():
        (tmp_path / "data" / "JPEGImages" / path.name).symlink_to(path)
    away = rf"found the link .*/data/Annotations to {folders['voc']}/Annotations$"
    with pytest.raises(DataError, match=away):
        run_train(tmp_path / "data", tmp_path / "one")
    run_train(tmp_path / "data", tmp_path / "two", "--follow-links")
