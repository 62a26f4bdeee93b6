# SPDX-License-Identifier: Apache-2.0
"""``effdet check`` as a user runs it: text, JSON, page, options, exit code."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effdet import cli
from effdet.check import KINDS, Example
from effdet.check.html import draw_example
from effdet.commands import check
from effdet.errors import DataError, UsageError
from effdet.settings import CheckConfig
from tests.check.sets import DataSet
from tests.test_options import record, unread


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path / "data")


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    cli.run_command(["check", *map(str, words)])
    return capsys.readouterr().out


def test_a_sound_set_is_told_to_be_and_how_to_go_on(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, data.folder)
    assert re.search(r"^train +coco +12 +0 +24 +2\.0 +0 +2$", text, re.M)
    assert "0 errors, 0 warnings, 0 notes" in text
    assert "100.0 %" in text
    assert text.splitlines()[-1] == (
        f"next: python train.py --data {data.folder} --preset finetune "
        "--weights tf_efficientdet_d0 --output runs/data"
    )


def test_errors_end_with_exit_code_3_after_all_is_told(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    data.box(3)["bbox"], data.box(3)["area"] = [500, 5, 20, 20], 400
    data.save()
    with pytest.raises(DataError, match=r"1 kind of errors: boxes.outside \(1\)") as caught:
        run(capsys, data.folder)
    assert caught.value.exit_code == 3
    text = capsys.readouterr().out
    assert "boxes.outside" in text
    assert "annotation 22 dog: [500, 5, 20, 20] in 128 x 96" in text
    assert text.splitlines()[-1].startswith("next: mend the errors, then: effdet check ")


def test_json_is_all_that_is_printed_and_has_every_field(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    data.box(3)["bbox"], data.box(3)["area"] = [120, 5, 20, 20], 400
    data.save()
    values = json.loads(run(capsys, data.folder, "--json", "-"))
    assert values["format"] == "effdet-check"
    assert values["version"] == 1
    assert values["counts"] == {"error": 0, "warning": 1, "info": 0}
    assert values["splits"][0]["classes"] == {"cat": 12, "dog": 12}
    (finding,) = values["findings"]
    kind = KINDS["boxes.clipped"]
    assert finding == {
        "id": "boxes.clipped",
        "severity": "warning",
        "count": 1,
        "splits": {"train": 1},
        "meaning": kind.meaning,
        "advice": kind.advice,
        "examples": [
            {
                "split": "train",
                "file": "train2.png",
                "annotation": 22,
                "category": "dog",
                "box": [120, 5, 140, 25],
                "text": "[120, 5, 20, 20] in 128 x 96",
            }
        ],
    }
    assert values["anchors"]["own"]["anchors"] == "1,2,0.5@4x3"
    assert values["next"].startswith("python train.py")


def test_files_are_written_and_never_over_one_another(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.box(3)["bbox"], data.box(3)["area"] = [120, 5, 20, 20], 400
    data.save()
    report, page = tmp_path / "check.json", tmp_path / "check.html"
    text = run(capsys, data.folder, "--json", report, "--html", page)
    assert "boxes.clipped" in text
    assert json.loads(report.read_text())["counts"]["warning"] == 1
    html = page.read_text()
    assert "boxes.clipped" in html
    assert html.count("data:image/jpeg;base64,") == 1
    assert "http://" not in html.replace("http://www.w3.org", "")
    with pytest.raises(UsageError, match="read or written already"):
        run(capsys, data.folder, "--json", page, "--html", page)
    with pytest.raises(UsageError, match="there is no folder"):
        run(capsys, data.folder, "--json", tmp_path / "no" / "x.json")
    with pytest.raises(UsageError, match="--html needs a file"):
        run(capsys, data.folder, "--html", "-")


def test_a_page_shows_boxes_and_pairs_of_pictures(data: DataSet) -> None:
    box = Example(split="train", text="", path=data.path(), box=(10.0, 10.0, 50.0, 50.0))
    drawn = draw_example(box, 10**6)
    assert drawn is not None
    assert drawn.size == (128, 96)
    assert np.any(np.asarray(drawn) != np.asarray(data.open()))
    pair = draw_example(replace(box, box=None, other=data.path(1)), 10**6)
    assert pair is not None
    assert pair.size == (128 * 2 + 4, 96)
    assert np.array_equal(np.asarray(pair)[:, 132:], np.asarray(data.open(1)))
    assert draw_example(replace(box, path=data.folder / "no.png"), 10**6) is None
    assert draw_example(replace(box, path=None), 10**6) is None


def test_names_of_files_reach_neither_terminal_nor_page_as_they_are(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[31m<script>alert(1)</script>"
    for content in data.content.values():
        content["categories"].append({"id": 3, "name": evil})
    data.save()
    text = run(capsys, data.folder, "--html", tmp_path / "x.html")
    html = (tmp_path / "x.html").read_text()
    assert "\x1b" not in text + html
    assert "<script>alert" not in html
    assert "alert(1)" in html


def test_every_option_is_read(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read = record(monkeypatch, check, CheckConfig)
    cli.run_command(["check", str(data.folder), "--json", str(data.folder / "out.json")])
    assert unread(CheckConfig, read) == set()


def found(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    """Findings by id, whether there are errors or not."""
    try:
        text = run(capsys, *words, "--json", "-")
    except DataError:
        text = capsys.readouterr().out
    values: dict[str, Any] = json.loads(text)
    return {finding["id"]: finding for finding in values["findings"]} | {"": values}


def test_options_have_their_effect(data: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    data.path(2).write_bytes(b"no image")
    data.path(1, "val").write_bytes(b"no image")
    data.path(2, "val").write_bytes(b"no image")
    data.save()
    both = found(capsys, data.folder, "--workers", "2")["images.unreadable"]
    assert both["splits"] == {"train": 1, "val": 2}
    assert len(both["examples"]) == 3
    one = found(capsys, data.folder, "--examples", "1")["images.unreadable"]
    assert (one["count"], len(one["examples"])) == (3, 1)
    val = found(capsys, data.folder, "--splits", "val")["images.unreadable"]
    assert val["splits"] == {"val": 2}
    without = found(capsys, data.folder, "--no-images")
    assert "images.unreadable" not in without
    assert without[""]["images_decoded"] is False
    few = found(capsys, data.folder, "--max-pixels", "5000")
    assert few["images.too_large"]["count"] == 15
    for words, text in (
        (["vall"], "--splits: no split 'vall'; did you mean val"),
        (["nope"], "--splits: no split 'nope'; known: train, val$"),
        (["train", "train"], "--splits: 'train' stands there twice; name it once"),
    ):
        with pytest.raises(UsageError, match=text):
            run(capsys, data.folder, "--splits", *words)
    with pytest.raises(UsageError, match="--workers does nothing with --no-images"):
        run(capsys, data.folder, "--no-images", "--workers", "2")


def test_links_are_followed_where_they_are_to_be(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    away = data.folder.parent / "away.png"
    data.path().rename(away)
    data.path().symlink_to(away)
    data.save()
    assert "files.link" in found(capsys, data.folder)
    followed = found(capsys, data.folder, "--follow-links")
    assert "files.link" not in followed
    assert "--follow-links" in followed[""]["next"]


def test_annotations_that_are_a_link_out_of_the_folder_are_an_error(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    (data.folder / "annotations").rename(data.folder.parent / "away")
    (data.folder / "annotations").symlink_to(data.folder.parent / "away")
    assert found(capsys, data.folder)["files.link"]["count"] == 2
    assert "files.link" not in found(capsys, data.folder, "--follow-links")


def test_the_model_decides_of_anchors_and_sizes(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    small = found(capsys, data.folder, "--image-size", "64", "--model", "efficientdet_lite0")
    assert "anchors.unreached" in small
    assert small[""]["anchors"]["image_size"] == [64, 64]
    assert small[""]["anchors"]["model"] == "efficientdet_lite0"
    better = small[""]["anchors"]["better"]
    assert better["reached"] > small[""]["anchors"]["own"]["reached"] + 0.3
    command = small[""]["next"]
    assert "--weights tf_efficientdet_lite0 --image-size 64" in command
    assert f"--anchors {better['anchors']}" in command
    words = ["--image-size", "64", "--model", "efficientdet_lite0", "--anchors", better["anchors"]]
    tried = found(capsys, data.folder, *words)
    assert tried[""]["anchors"]["own"] == better
    with pytest.raises(UsageError, match="--anchors must be aspect ratios"):
        run(capsys, data.folder, "--anchors", "1,two")


def test_the_built_in_set_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    values = found(capsys, "shapes", "--no-images")
    assert values[""]["counts"]["error"] == 0


def test_nothing_but_a_report_is_ever_replaced(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = next((data.folder / "annotations").iterdir())
    before = annotations.read_bytes()
    for option in ("--html", "--json"):
        with pytest.raises(UsageError, match="is there already and is of another kind"):
            run(capsys, data.folder, option, annotations)
    assert annotations.read_bytes() == before
