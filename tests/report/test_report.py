# SPDX-License-Identifier: Apache-2.0
"""``effdet report`` on runs in every state."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from effdet import cli
from effdet.commands import report
from effdet.errors import DataError, UsageError, WeightsError
from effdet.inference import Detector
from effdet.keepsakes import validated_images
from effdet.report import evaluate, pictures
from effdet.report.build import next_command
from effdet.report.judged import judge
from effdet.report.run import read_run
from effdet.settings.report import ReportConfig
from tests.page.test_page import Reader
from tests.test_options import record, unread
from tests.tiny import tiny_model


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def sections(page: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page.read_text())


def text_of(page: Path) -> str:
    """What can be read on a page."""
    return "".join(Reader(page.read_text()).texts)


ALL = [
    "Summary", "Training", "Data", "First batches", "Precision and recall", "Classes", "Errors",
    "Confusion matrix", "Predictions", "Worst images", "Settings",
]  # fmt: skip


def test_a_page_of_one_run_has_every_part(
    run: Path, report_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run_command(["report", str(run)])
    assert sections(run / "report.html") == ALL
    out = capsys.readouterr().out
    assert f"report in {run}/report.html" in out
    assert out.strip().splitlines()[-1] == f"next: effdet export {run}/best.pt --format onnx"
    html = (run / "report.html").read_text()
    found = Reader(html)
    assert found.count("img") == 2 + 2 * (6 + 6)  # batches; pairs of six images and the six worst
    assert "http:" not in html.replace("http://www.w3.org", "")
    assert len(html) < 5_000_000


def test_a_report_replaces_the_one_before_and_leaves_nothing_else(run: Path) -> None:
    (run / "report.html").write_text("<!DOCTYPE html>old")
    before = {path.name for path in run.iterdir()}
    cli.run_command(["report", str(run), "--pictures", "0"])
    assert "Summary" in (run / "report.html").read_text()
    assert {path.name for path in run.iterdir()} == before


def test_a_file_of_the_run_is_not_replaced_by_its_report(run: Path) -> None:
    before = (run / "log.jsonl").read_bytes()
    with pytest.raises(UsageError, match="is there already and is of another kind"):
        cli.run_command(["report", str(run), "--output", str(run / "log.jsonl")])
    assert (run / "log.jsonl").read_bytes() == before


def test_no_pictures_and_a_score_threshold_where_they_are_asked_for(
    run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "page.html"
    words = ["--pictures", "0", "--score-threshold", "0.25", "--output", str(output)]
    cli.run_command(["report", str(run), *words])
    assert sections(output) == [s for s in ALL if s not in ("Predictions", "Worst images")]
    assert "with a score of at least 0.250" in output.read_text()
    assert not (run / "report.html").exists()


def test_a_threshold_has_the_same_digits_wherever_it_stands(run: Path) -> None:
    cli.run_command(["report", str(run), "--pictures", "0", "--score-threshold", "0.009"])
    found = re.findall(r"score of at least ([\d.]+\d)", (run / "report.html").read_text())
    assert found == ["0.009"] * 2


def test_tables_say_what_a_dash_and_what_rows_and_columns_are(run: Path) -> None:
    cli.run_command(["report", str(run), "--pictures", "0"])
    page = (run / "report.html").read_text()
    assert "A dash: the class has no box of that size" in page
    assert "A row is the class that boxes have in the annotations, a column the class that" in page
    texts = Reader(page).texts
    assert {"rows: class of the box", "columns: found as", "not found", "no box"} <= set(texts)
    assert "-" not in texts  # a dash has one look


def test_figures_that_the_run_has_not_kept_are_no_empty_tiles(run: Path) -> None:
    (run / "report" / "labels.json").unlink()
    (run / "environment.json").unlink()
    cli.run_command(["report", str(run), "--pictures", "0"])
    page = (run / "report.html").read_text()
    assert "<dt>best AP</dt>" in page
    assert "<dt>training images</dt>" not in page
    assert "<dt>started</dt>" not in page


@pytest.mark.parametrize(
    ("ap", "said"),
    [("0.0009", "AP is practically 0"), ("0.0011", "AP is very low"), ("0.021", "")],
)
def test_a_low_ap_is_explained(run: Path, ap: str, said: str) -> None:
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    place = header.split(",").index("AP")
    cells = [row.split(",") for row in rows]
    lines = [",".join([*row[:place], ap, *row[place + 1 :]]) for row in cells]
    (run / "metrics.csv").write_text("\n".join([header, *lines]) + "\n")
    cli.run_command(["report", str(run), "--pictures", "0"])
    page = text_of(run / "report.html")
    assert re.findall("AP is practically 0|AP is very low", page) == [said] * bool(said)
    assert ("look at First batches" in page) == bool(said)


@pytest.mark.parametrize(("score", "said"), [(0.049, True), (0.051, False)])
def test_a_low_best_threshold_is_explained(run: Path, score: float, said: bool) -> None:
    folder = run / "report"
    best = json.loads((folder / "best.json").read_text())
    row = json.loads((folder / "truth.json").read_text())["annotations"][0]
    found = {name: row[name] for name in ("image_id", "category_id", "bbox")}
    (folder / best["detections"]).write_text(json.dumps([found | {"score": score}]))
    cli.run_command(["report", str(run), "--pictures", "0"])
    page = text_of(run / "report.html")
    assert ("F1 is best at a score of only 0.049: the model is sure of nothing" in page) == said


def test_false_detections_beyond_the_ten_best_are_counted_not_drawn(run: Path) -> None:
    folder = run / "report"
    best = json.loads((folder / "best.json").read_text())
    image = json.loads((folder / "truth.json").read_text())["images"][0]["id"]
    far = [
        {"image_id": image, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5 + n / 100}
        for n in range(14)
    ]
    (folder / best["detections"]).write_text(json.dumps(far))
    judged = judge(read_run(run), 0.1)
    assert judged is not None
    _, (found, labels, wrong), caption = pictures.drawn_boxes(judged, image)
    assert len(found) == len(labels) == len(wrong) == 10
    assert sorted(found.scores.tolist())[0] == pytest.approx(0.54)
    assert "14 false (4 of them not drawn)" in caption


def test_a_moved_data_folder_costs_the_pictures_and_is_said(
    run: Path, report_data: Path, tmp_path: Path
) -> None:
    best = run / "report" / "best.json"
    content = json.loads(best.read_text())
    best.write_text(json.dumps(content | {"images": str(tmp_path / "gone")}))
    cli.run_command(["report", str(run)])
    page = (run / "report.html").read_text()
    assert "Pictures of the validation images are left out" in page
    assert "--data DIR" in text_of(run / "report.html")
    assert "Confusion matrix" in sections(run / "report.html")
    cli.run_command(["report", str(run), "--data", str(report_data)])
    assert sections(run / "report.html") == ALL


def test_a_run_that_kept_nothing_says_how_to_make_it_and_can(run: Path) -> None:
    figures = json.loads((run / "report" / "best.json").read_text())["figures"]
    shutil.rmtree(run / "report")
    cli.run_command(["report", str(run)])
    assert f"effdet report {run} --evaluate" in text_of(run / "report.html")
    assert "Classes" not in sections(run / "report.html")
    with tiny_model():
        cli.run_command(["report", str(run), "--evaluate", "--device", "cpu"])
    assert "Worst images" in sections(run / "report.html")
    again = json.loads((run / "report" / "best.json").read_text())["figures"]
    assert again["AP"] == pytest.approx(figures["AP"], abs=1e-9)


def test_a_validation_is_as_the_run_would_have_made_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run / "config.yaml"
    ours = {
        "strict_data": "true",
        "follow_links": "true",
        "max_pixels": "1234567",
        "max_bad_images": "0.25",
        "evaluator": "pycocotools",
        "score_threshold": "0.123",
    }
    lines = [x for x in config.read_text().splitlines() if x.split(":")[0] not in ours]
    config.write_text("\n".join([*lines, *(f"{k}: {v}" for k, v in ours.items())]) + "\n")
    asked: dict[str, Any] = {}

    class AskedError(Exception):
        pass

    def score_split(detector: Detector, *_: object, **words: Any) -> None:
        asked.update(words, score_threshold=detector.postprocess.score_threshold)
        raise AskedError

    monkeypatch.setattr(evaluate, "score_split", score_split)
    with tiny_model(), pytest.raises(AskedError):
        evaluate.evaluate_run(read_run(run), device="cpu")
    expected = {"strict": True, "follow_links": True, "max_pixels": 1234567}
    expected |= {"max_bad_images": 0.25, "evaluator": "pycocotools", "score_threshold": 0.123}
    assert {name: asked[name] for name in expected} == expected
    config.write_text("max_bad_images: many\n")
    with tiny_model(), pytest.raises(UsageError, match=r"config\.yaml: max_bad_images must be"):
        evaluate.evaluate_run(read_run(run), device="cpu")


def test_a_run_that_died_before_its_first_epoch(run: Path) -> None:
    for name in ("metrics.csv", "best.pt", "last.pt", "log.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "report")
    status = {"state": "failed", "epoch": 1, "epochs": 2, "error": "DataError: <b>bad</b>"}
    (run / "status.json").write_text(json.dumps(status))
    cli.run_command(["report", str(run)])
    page = (run / "report.html").read_text()
    assert "ended by an error" in page
    assert "DataError: &lt;b&gt;bad&lt;/b&gt;" in page
    assert "No epoch was validated" in page


def test_a_run_without_validation_has_curves(run: Path) -> None:
    text = (run / "metrics.csv").read_text().splitlines()
    header = text[0].split(",")
    rows = [dict(zip(header, line.split(","))) for line in text[1:]]
    kept = [name for name in header if not name.startswith(("AP", "AR"))]
    lines = [",".join(header), *(",".join(r[n] if n in kept else "" for n in header) for r in rows)]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    shutil.rmtree(run / "report")
    cli.run_command(["report", str(run)])
    assert sections(run / "report.html") == ["Summary", "Training", "Settings"]


@pytest.mark.parametrize("name", ["best.json", "truth.json", "labels.json", "batch-1.jpg"])
def test_damaged_keepsakes_cost_only_their_part(run: Path, name: str) -> None:
    (run / "report" / name).write_text('{"train": {}}')
    cli.run_command(["report", str(run)])
    assert "Training" in sections(run / "report.html")
    assert "Settings" in sections(run / "report.html")


def test_a_best_row_without_its_epoch_is_noted(run: Path) -> None:
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    place = header.split(",").index("epoch")
    cells = [row.split(",") for row in rows]
    blank = [",".join("" if i == place else c for i, c in enumerate(row)) for row in cells]
    (run / "metrics.csv").write_text("\n".join([header, *blank]) + "\n")
    cli.run_command(["report", str(run)])
    assert "does not say after which epoch" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("entry", "value"), [("per_image", [float("nan")] * 3), ("centres", 5), ("classes", 5)]
)
def test_labels_that_cannot_be_are_noted(run: Path, entry: str, value: object) -> None:
    path = run / "report" / "labels.json"
    labels = json.loads(path.read_text())
    labels["train"][entry] = value
    path.write_text(json.dumps(labels))
    cli.run_command(["report", str(run)])
    assert "labels.json is damaged" in (run / "report.html").read_text()


def test_a_place_of_images_that_cannot_be_is_noted(run: Path) -> None:
    best = run / "report" / "best.json"
    best.write_text(json.dumps(json.loads(best.read_text()) | {"images": "\0x"}))
    cli.run_command(["report", str(run)])
    page = (run / "report.html").read_text()
    assert "Pictures of the validation images are left out" in page
    assert "\0" not in page


def test_a_file_name_in_best_json_leads_nowhere_else(run: Path) -> None:
    best = run / "report" / "best.json"
    content = json.loads(best.read_text())
    best.write_text(json.dumps(content | {"detections": "../../secret.json"}))
    cli.run_command(["report", str(run)])
    assert "expected the name of a file beside it" in (run / "report.html").read_text()


def test_hostile_class_names_come_out_as_text(run: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    for name in ("truth.json", "labels.json"):
        path = run / "report" / name
        path.write_text(path.read_text().replace('"green"', json.dumps(evil)))
    cli.run_command(["report", str(run)])
    found = Reader((run / "report.html").read_text())
    assert found.count("script") == 1
    assert not any(key == "onerror" for _, attributes in found.elements for key in attributes)
    assert any(evil[:20] in text for text in found.texts)


def test_several_runs_are_compared(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(re.sub(r"(?m)^lr: .*$", "lr: 0.5", config))
    cli.run_command(["report", str(run), str(other), "--output", str(tmp_path / "all.html")])
    page = tmp_path / "all.html"
    assert sections(page) == ["Figures", "Settings that differ", "Training", "AP of each class"]
    assert re.search(r"<td>lr</td><td>[\d.]+</td><td>0.5</td>", page.read_text())
    assert not (run / "report.html").exists()


def test_runs_of_one_name_are_told_apart(run: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = Path(shutil.copytree(run, tmp_path / "more" / "run"))
    cli.run_command(["report", str(run), str(other), "--output", str(tmp_path / "all.html")])
    assert str(other) in (tmp_path / "all.html").read_text()


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["{run}", "{run}/../other"], UsageError, "give --output"),
        (["{run}", "{run}", "--output", "x.html"], UsageError, "named twice"),
        (["{run}/report"], UsageError, "no run folder"),
        (["{run}", "--output", "{run}/none/x.html"], UsageError, "there is no folder"),
        (["{run}", "--pictures", "-1"], UsageError, "--pictures must be at least 0"),
        (["{run}", "--score-threshold", "2"], UsageError, "--score-threshold must be"),
        (["{run}", "--device", "cpu"], UsageError, "--device does nothing without"),
        (["{run}", "--data", "{run}/none"], DataError, "none"),
        (["{run}", "--evaluate"], WeightsError, "best.pt"),
    ],
)
def test_mistakes_are_errors_of_their_kind(
    run: Path, words: list[str], kind: type[Exception], message: str
) -> None:
    (run / "best.pt").unlink()
    with pytest.raises(kind, match=message):
        cli.run_command(["report", *(word.format(run=run) for word in words)])


def test_every_option_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = record(monkeypatch, report, ReportConfig)
    with tiny_model():
        cli.run_command(["report", str(run), "--evaluate", "--device", "cpu"])
    assert unread(ReportConfig, read) == set()


def test_the_images_of_a_validation_are_known_from_its_weights(
    tiny_run: Path, report_data: Path, tmp_path: Path
) -> None:
    val = report_data / "val"
    assert sorted(validated_images(tiny_run / "best.pt")) == sorted(val.absolute().iterdir())
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    best = run / "report" / "best.json"
    best.write_text(json.dumps({"images": str(tmp_path / "gone")}))
    assert validated_images(run / "best.pt") == []
    assert validated_images(run / "best.pt", val) != []
    best.write_text(json.dumps({"images": str(report_data)}))
    truth = run / "report" / "truth.json"
    truth.write_text(truth.read_text().replace('"file_name": "', '"file_name": "val/'))
    assert validated_images(run / "best.pt")[0].parent == val  # as with YOLO's folders
    for damaged in ("[]", "[" * 200_000, '{"images": null}'):
        best.write_text(damaged)
        assert validated_images(run / "best.pt") == []
    best.unlink()
    os.mkfifo(best)  # of which reading would never end
    assert validated_images(run / "best.pt") == []
    assert validated_images(tmp_path / "w.pt") == []


def test_of_data_that_was_moved_the_next_command_names_the_images(
    run: Path, report_data: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(report_data, tmp_path / "moved"))
    words = next_command(read_run(run), str(moved)).split()
    assert words[words.index("--check-images") + 1] == str(moved / "val")
    assert "--check-images" not in next_command(read_run(run), str(tmp_path / "none"))
