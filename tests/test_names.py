# SPDX-License-Identifier: Apache-2.0
"""Names of others on their way out: terminal, CSV, JSON, file names, pictures."""

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import ImageDraw

import train
import validate
from effdet import cli
from effdet.inference.draw import draw
from effdet.metrics.table import write_table
from effdet.names import LONGEST_SHOWN, csv_value, file_name, json_text, shown_name, tell
from effdet.structures import ClassMap, Detections
from tests.runs import tiny_coco

NASTY = "\x1b[2J=cmd|' /C calc'!A0<script>alert(1)</script>\u202e\n\x9b31m"
OBEYED = re.compile("[^\n -~\u00a1-\u024f\u2500-\u27ff]")
"""What no output of ours may hold; the last range is of the progress bar."""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cat", "cat"),
        ("Käse 猫", "Käse 猫"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\r\t", "a\\nb\\r\\t"),
        ("\u202eab\ufeff\u2028", "\\u202eab\\ufeff\\u2028"),
        ("\ud800", "\\ud800"),
        ("x" * 1000, "x" * (LONGEST_SHOWN - 3) + "..."),
    ],
)
def test_a_name_in_a_table_is_short_and_printable(name: str, text: str) -> None:
    assert shown_name(name) == text


def test_what_is_told_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    tell("a\nb\x1b[2J")
    assert capsys.readouterr() == ("", "a\\nb\\x1b[2J\n")


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", NASTY[4:]]
)
def test_text_that_would_be_a_formula_is_marked(text: str) -> None:
    assert csv_value(text) == "'" + text
    assert csv_value("a" + text) == "a" + text


@pytest.mark.parametrize("value", [-1, -0.5, None, "", "cat", True])
def test_other_cells_are_as_they_were(value: object) -> None:
    assert csv_value(value) is value


def test_the_table_of_a_run_has_no_formulas(tmp_path: Path) -> None:
    write_table(tmp_path / "metrics.csv", [{"epoch": 1, "lr": -0.5, "weights": "=HYPERLINK(1)"}])
    (row,) = csv.DictReader(io.StringIO((tmp_path / "metrics.csv").read_text()))
    assert (row["lr"], row["weights"]) == ("-0.5", "'=HYPERLINK(1)")


@pytest.mark.parametrize(
    "text", [NASTY, "Käse 猫 😀", "\ud800", "\x7f\x85\u2028", "\U000e0001", '"\\']
)
def test_json_is_readable_plain_and_says_the_same(text: str) -> None:
    found = json_text({"name": text, "n": [1, 2.5, None]}, indent=1)
    assert json.loads(found) == {"name": text, "n": [1, 2.5, None]}
    assert all(c.isprintable() or c == "\n" for c in found)
    found.encode()
    assert ("Käse 猫 😀" in found) == ("Käse" in text)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("cat", "cat.png"), ("Käse 猫", "Käse 猫.png"), ("a.b", "a.b.png"),
        ("../../etc/passwd", "_.._.._etc_passwd.png"), ("/abs", "_abs.png"),
        ("a\\b:c", "a_b_c.png"), ("-rf", "_-rf.png"), (".hidden", "_.hidden.png"),
        ("~root", "_~root.png"), ("", "_.png"), ("con", "_con.png"), ("NUL.tar", "_NUL.tar.png"),
        ("Com1", "_Com1.png"), ("comma", "comma.png"),
        ("a\x00b\x1b[2J\n", "a_b_[2J_.png"), ("\u202egnp", "_gnp.png"), ("\udcff", "_.png"),
        ("  a ", "a.png"), ("<script>", "_script_.png"), ("a*?|\"b", "a____b.png"),
    ],
)  # fmt: skip
def test_a_file_name_is_one_everywhere(stem: str, name: str) -> None:
    assert file_name(stem, ".png") == name


def test_a_long_file_name_is_cut_between_letters() -> None:
    name = file_name("猫" * 300, "_12.png")
    assert len(name.encode()) in range(250, 256)
    assert name.endswith("猫_12.png")
    assert file_name("trailing. .", "") == "trailing"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_coco(tmp_path_factory.mktemp("data") / "tiny", images=2)
    for file in (folder / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = NASTY
        content["images"][0]["file_name"] = "-=1.png"
        file.write_text(json.dumps(content))
    for split in ("train", "val"):
        (folder / split / "1.png").rename(folder / split / "-=1.png")
    return folder


def called(main: object, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a program prints on both streams."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        main()  # type: ignore[operator]
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_a_nasty_class_name_is_nowhere_obeyed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, small = tmp_path / "run", ["--workers", "0", "--batch-size", "2", "--device", "cpu"]
    words = ["train.py", "--data", str(data), *small, "--model", "efficientdet_lite0"]
    words += ["--image-size", "64", "--epochs", "1", "--output", str(run)]
    told = called(train.main, words, capsys)
    weights = ["--weights", str(run / "last.pt")]
    words = ["train.py", "--data", str(data), *small, *weights, "--epochs", "1"]
    told += called(train.main, [*words, "--output", str(tmp_path / "second")], capsys)
    files = ["--metrics", str(tmp_path / "metrics.json"), "--json", str(tmp_path / "boxes.json")]
    table = called(
        validate.main, ["validate.py", "--data", str(data), *small, *weights, *files], capsys
    )
    shutil.copytree(data / "val", data / "photos")
    (data / "photos" / "-=1.png").rename(data / "photos" / "-\x1b[2J=1.png")
    words = [
        "effdet",
        "predict",
        str(data / "photos"),
        *weights,
        "--output",
        str(tmp_path / "out"),
    ]
    told += called(cli.main, [*words, "--device", "cpu", "--score-threshold", "0"], capsys)
    about = called(cli.main, ["effdet", "info", str(run / "last.pt")], capsys)
    about += called(cli.main, ["effdet", "info", "--json", str(run / "last.pt")], capsys)
    for text in (told, table, about):
        assert OBEYED.search(text) is None
    for text in (table, about):
        assert "\\x1b[2J=cmd" in text or "\\u001b[2J=cmd" in text
    check_files(tmp_path, run)


def check_files(folder: Path, run: Path) -> None:
    """What the programs have written holds the name as data, and no file is called after it."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert NASTY in {row["name"] for row in metrics["per_class"]}
    written = [p for p in folder.rglob("*") if p.is_file()]
    for path in written:
        assert path.name.isprintable()
        assert path.name[0] != "-"
        if path.suffix in (".json", ".jsonl", ".csv", ".yaml"):
            text = path.read_text(encoding="utf-8")
            assert all(c.isprintable() or c in "\n" for c in text), path
    assert {p.name for p in written if p.suffix == ".png"} == {"_-_[2J=1.png", "2.png"}
    cells = [c for row in csv.reader((run / "metrics.csv").open()) for c in row]
    assert not [c for c in cells if c and c[0] in "=+@\t\r"]


@pytest.mark.parametrize("name", [NASTY, "\n" * 9, "x" * 10_000, "\ud800", "\x00", "", "猫"])
def test_a_picture_shows_a_nasty_name_as_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    write = ImageDraw.ImageDraw.text

    def record(self: ImageDraw.ImageDraw, place: object, text: str, **options: object) -> None:
        texts.append(text)
        write(self, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    found = Detections(
        boxes=torch.tensor([[10.0, 10, 60, 60]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([0]),
    )
    draw(torch.zeros(3, 80, 100, dtype=torch.uint8), found, ClassMap((name,), (1,)))
    assert texts == [f"{shown_name(name)} 0.50"]
