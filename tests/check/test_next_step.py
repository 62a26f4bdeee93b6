# SPDX-License-Identifier: Apache-2.0
"""What ``effdet check`` says to type next: it works, whatever splits there are."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import train
from effdet import cli
from effdet.data import find_splits, read_split
from effdet.data.convert import convert_data
from tests.data.formats.making import text
from tests.runs import ROOT, tiny_coco

SMALL = ["--workers", "0", "--batch-size", "2", "--device", "cpu", "--epochs", "1"]
SMALL += ["--model", "efficientdet_lite0", "--image-size", "64"]


def next_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The words after ``next:`` in what ``effdet`` prints."""
    capsys.readouterr()
    assert words[0] == "effdet"
    cli.run_command(words[1:])
    (line,) = re.findall(r"^next: (.*)$", capsys.readouterr().out, re.M)
    return shlex.split(line)


def only_train(folder: Path, images: int = 10) -> Path:
    """COCO with one split, called as CVAT calls it."""
    coco = tiny_coco(folder, images=images)
    (coco / "annotations" / "instances_val.json").unlink()
    shutil.rmtree(coco / "val")
    (coco / "train").rename(coco / "images")
    (coco / "annotations" / "instances_train.json").rename(
        coco / "annotations" / "instances_default.json"
    )
    return coco


def in_csv(coco: Path, folder: Path) -> Path:
    shutil.copytree(coco / "images", folder)
    content = json.loads((coco / "annotations" / "instances_default.json").read_text())
    lines = []
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        corners = f"{x},{y},{x + width},{y + height}"
        lines.append(f"{row['image_id']}.png,{corners},{row['category_id']}x")
    text(folder / "boxes.csv", "\n".join(lines))
    return folder


def test_a_check_of_one_split_leads_to_that_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["effdet", "check", str(tiny_coco(tmp_path / "coco", images=4))]
    for split in ("train", "val"):
        assert next_of([*words, "--splits", split], capsys) == words
    for splits in ([], ["--splits", "train", "val"]):
        assert next_of([*words, *splits], capsys)[:2] == ["python", "train.py"]


@pytest.mark.parametrize("form", ["coco", "voc", "yolo", "csv"])
def test_a_folder_without_a_split_is_led_to_training(
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    only_train(tmp_path / "coco")
    if form == "csv":
        in_csv(tmp_path / "coco", tmp_path / "csv")
    elif form != "coco":
        convert_data("coco", form, form)  # type: ignore[arg-type]
    convert = next_of(["effdet", "check", form], capsys)
    to = "coco" if form == "csv" else form
    expected = ["effdet", "convert-data", form, f"{form}-split", "--to", to, "--val-share", "0.2"]
    assert convert == expected
    check = next_of(convert, capsys)
    assert check == ["effdet", "check", f"{form}-split"]
    words = next_of(check, capsys)
    assert words[0] == "python"
    assert Path(words[1]).samefile(ROOT / "train.py")  # which lies elsewhere
    assert words[2:4] == ["--data", f"{form}-split"]
    weights = words.index("--weights")  # which would be fetched
    del words[weights : weights + 2]
    monkeypatch.setattr(sys, "argv", [*words[1:], *SMALL])
    train.main()
    assert Path(f"runs/{form}-split/last.pt").is_file()
    splits = {name: read_split(files) for name, files in find_splits(check[2]).items()}
    assert {name: len(table.image_ids) for name, table in splits.items()} == {"train": 8, "val": 2}


@pytest.mark.parametrize(("images", "share"), [(2, "0.5"), (3, "0.2")])
def test_few_images_are_set_apart_by_a_share_that_works(
    images: int,
    share: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    only_train(tmp_path / "coco", images)
    words = next_of(["effdet", "check", "coco"], capsys)
    assert words[-1] == share
    assert next_of(words, capsys) == ["effdet", "check", "coco-split"]


def test_a_single_image_cannot_be_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only_train(tmp_path / "coco", 1)
    words = next_of(["effdet", "check", str(tmp_path / "coco")], capsys)
    assert " ".join(words[:5]) == "add images (there is 1;"


def data_yaml(folder: Path) -> Path:
    coco = tiny_coco(folder / "coco", images=4)
    convert_data(coco, folder / "mine", "yolo")
    return folder / "mine" / "data.yaml"


def test_a_run_is_called_after_the_folder_of_data_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = next_of(["effdet", "check", str(data_yaml(tmp_path))], capsys)
    assert words[words.index("--output") + 1] == "runs/mine"


def test_the_new_folder_lies_beside_that_of_data_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data_yaml(tmp_path)
    file.write_text(re.sub(r"^val: .*\n", "", file.read_text(), flags=re.M))
    beside = str(tmp_path / "mine-split")
    assert next_of(["effdet", "check", str(file)], capsys)[3] == beside
    monkeypatch.chdir(tmp_path / "mine")
    for data in (".", "data.yaml"):
        assert next_of(["effdet", "check", data], capsys)[2:4] == [data, "../mine-split"]
    words = next_of(["effdet", "check", ".", "--follow-links"], capsys)
    assert words[-1] == "--follow-links"


def test_a_set_to_train_on_is_asked_for_and_other_names_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = tiny_coco(tmp_path / "mine", images=4)
    annotations = coco / "annotations"
    (annotations / "instances_train.json").rename(annotations / "instances_mine.json")
    (coco / "train").rename(coco / "mine")
    words = next_of(["effdet", "check", str(coco)], capsys)
    assert words[words.index("--train-split") + 1] == "mine"
    (annotations / "instances_mine.json").unlink()
    words = next_of(["effdet", "check", str(coco)], capsys)
    assert words[:4] == ["add", "a", "split", "train,"]


def test_the_default_of_the_two_splits_is_not_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = next_of(["effdet", "check", str(tiny_coco(tmp_path / "mine", images=4))], capsys)
    assert not {"--train-split", "--val-split"} & set(words)
