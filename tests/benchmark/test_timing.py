# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

import pytest

from effdet import cli
from effdet.benchmark import Report, Row, Timing, format_report
from effdet.benchmark.subject import Job, Subject
from effdet.benchmark.timing import build_job
from effdet.commands import benchmark as command
from effdet.config import model_config
from effdet.data import locate_split
from effdet.errors import WeightsError
from effdet.settings import BenchmarkConfig
from tests.export.lively import save_lively
from tests.runs import tiny_coco
from tests.test_options import record, unread


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = model_config("efficientdet_lite0", image_size=(64, 64), num_classes=3)
    return save_lively(config, tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the classes of the weights."""
    folder = tiny_coco(tmp_path_factory.mktemp("data") / "tiny", images=3)
    file = folder / "annotations" / "instances_val.json"
    text = file.read_text().replace('"category_id": 1', '"category_id": 3')
    text = text.replace('"category_id": 2', '"category_id": 7')
    content = json.loads(text)
    content["categories"] = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    file.write_text(json.dumps(content))
    return folder


def test_the_command_times_every_file_in_every_way_and_reads_every_option(
    weights: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = record(monkeypatch, command, BenchmarkConfig)
    words = [str(weights), str(weights), "--data", str(data), "--count", "2", "--rounds", "2"]
    words += ["--warmup", "1", "--batch-size", "1", "2", "--threads", "1", "--device", "cpu"]
    cli.run_command(["benchmark", *words, "--json"])
    assert unread(BenchmarkConfig, read) <= {"images"}
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert (first["kind"], first["threads"], first["device"]) == ("PyTorch", 1, "cpu")
    assert 0 <= first["ap"] == second["ap"]
    assert first["memory"] > 10  # megabytes: the weights alone are 13
    assert first["megabytes"] == pytest.approx(weights.stat().st_size / 1e6)
    stages = [(row["stage"], row["batch_size"]) for row in second["timings"]]
    names = ("model", "detections", "files")
    assert stages == [(name, size) for size in (1, 2) for name in names]
    for a, b in zip(first["timings"], second["timings"], strict=True):
        assert 0 < b["median"] <= b["p90"] <= b["p99"]
        assert b["images_per_second"] == pytest.approx(1e3 * b["batch_size"] / b["median"])
        assert b["ratio"] == pytest.approx(b["median"] / a["median"])
        assert a["ratio"] == 1


def test_options_of_weights_do_not_reach_files_that_stand_beside_them() -> None:
    words = {"device": "cuda", "use_ema": False}
    config = BenchmarkConfig(weights=("best.pt", "a.onnx"), **words)
    jobs = [build_job(name, config, []) for name in config.weights]
    assert [(job.device, job.use_ema) for job in jobs] == [("cuda", False), (None, True)]
    config = BenchmarkConfig(weights=("a.onnx",), **words)
    job = build_job("a.onnx", config, [])  # loading refuses them
    assert (job.device, job.use_ema) == ("cuda", False)


def test_what_is_wrong_with_a_file_is_told_as_elsewhere(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.pt").write_bytes(b"junk")
    monkeypatch.setattr(sys, "argv", ["effdet", "benchmark", str(tmp_path / "bad.pt")])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == WeightsError.exit_code
    assert "bad.pt" in capsys.readouterr().err


def test_a_call_takes_the_next_images_of_the_wanted_stage(weights: Path, data: Path) -> None:
    files = tuple(sorted((data / "val").iterdir()))
    subject = Subject(
        Job(
            weights=str(weights), images=files, threads=None, device="cpu", use_ema=True,
            trust_code=False,
        )
    )  # fmt: skip
    seen: list[list[Path]] = []
    predict = subject.detector.predict
    subject.detector.predict = lambda f, **how: seen.append(f) or predict(f, **how)  # type: ignore
    for number in range(3):
        assert subject.time("files", number, 2) > 0
    assert seen == [[files[0], files[1]], [files[2], files[0]], [files[1], files[2]]]
    assert subject.score(locate_split(data, "val", None, None)) is not None


def test_the_table_names_files_ratios_and_what_the_times_are_of() -> None:
    timing = Timing(
        stage="files", batch_size=8, median=20.0, p90=25.0, p99=30.0, images_per_second=400.0,
        ratio=0.5,
    )  # fmt: skip
    row = Row(
        weights="runs/a/best.onnx", kind="onnxruntime", model="efficientdet_d0",
        image_size=[512, 640], threads=2, device="cpu", megabytes=15.6, memory=120.0, ap=0.12345,
        timings=[timing],
    )  # fmt: skip
    text = format_report(Report(images="data, \x1b[2Jval", rounds=20, rows=[row]))
    head, line = text.splitlines()[:2]
    assert head.split() == ["file", "runs", "on", "model", "size", "threads", "MB", "memory", "AP"]
    assert line.split() == [
        "best.onnx", "onnxruntime", "d0", "512x640", "2", "15.6", "120", "MB", "0.1235",
    ]  # fmt: skip
    assert "image files to detections, batch 8" in text
    assert "20.0 ms   25.0 ms   30.0 ms    400.0   0.50" in text
    assert "20 calls of each, in turn, on data, \\x1b[2Jval." in text
