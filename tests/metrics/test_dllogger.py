# SPDX-License-Identifier: Apache-2.0
import io
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from effdet.metrics import dllogger as lines
from effdet.metrics.dllogger import (
    METADATA,
    JsonLines,
    PackageLogger,
    StdoutLines,
    build_json_logger,
    build_stdout_logger,
    log_record,
    metadata_record,
    stdout_line,
)

NOW = datetime(2026, 11, 21, 3, 41, 42, 260804)


def test_a_log_record_has_the_bytes_of_dllogger(utc: None) -> None:
    data = {"train_loss": 1.25, "ips": 1234.567}
    assert log_record(NOW, 0.012249, (0, 98, 49), data) == (
        'DLLL {"timestamp": "1795232502.260804", "datetime": "2026-11-21 03:41:42.260804+00:00", '
        '"elapsedtime": "0.012249", "type": "LOG", "step": [0, 98, 49], '
        '"data": {"train_loss": 1.25, "ips": 1234.567}}'
    )
    assert '"step": [], ' in log_record(NOW, 0.5, (), {})
    assert '"step": "PARAMETER", ' in log_record(NOW, 0.5, "PARAMETER", {})


def test_a_metadata_record_has_the_bytes_of_dllogger(utc: None) -> None:
    time = NOW.replace(microsecond=248562)
    assert metadata_record(time, 0.5, "ips", {"unit": "img/s", "format": ":.2f"}) == (
        'DLLL {"timestamp": "1795232502.248562", "elapsedtime": "0.5", '
        '"datetime": "2026-11-21 03:41:42.248562+00:00", "type": "METADATA", "metric": "ips", '
        '"metadata": {"unit": "img/s", "format": ":.2f"}}'
    )


@pytest.mark.parametrize(
    ("micro", "step", "data", "line"),
    [
        (260745, "PARAMETER", {"lr": 0.1, "name": "d0"}, "PARAMETER lr : 0.1  name : d0 "),
        (
            260804,
            (0, 98, 49),
            {"train_loss": 1.25, "ips": 1234.567},
            "(0, 98, 49) train_loss : 1.25 None ips : 1234.57 img/s",
        ),
        (260814, (), {"map": 0.34}, "() map : 0.34 "),
        (260814, (1,), {"ips": None}, "(1,) ips : None img/s"),
    ],
)
def test_a_line_on_stdout_has_the_bytes_of_dllogger(
    micro: int, step: Any, data: dict[str, Any], line: str
) -> None:
    metadata = {"train_loss": {"unit": None}, "ips": {"unit": "img/s", "format": ":.2f"}}
    shown = stdout_line(NOW.replace(microsecond=micro), step, data, metadata)
    assert shown == f"DLL 2026-11-21 03:41:42.{micro} - {line}"


class Clock(datetime):
    """A clock that goes on by the same odd step at each look, or stands."""

    looks = step = 0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        cls.looks += cls.step
        return NOW + cls.looks * timedelta(microseconds=100_033)


def written(
    path: Path, logger: Any, stdout: Any, capsys: pytest.CaptureFixture[str]
) -> tuple[bytes, str]:
    """What two loggers make of the same records, each beginning at the same time."""
    for step, one in ((1, logger), (0, stdout)):  # what is printed has no time since the start
        Clock.looks, Clock.step = 0, step
        built = one()
        for metric, metadata in METADATA.items():
            built.metadata(metric, metadata)
        built.log("PARAMETER", {"lr": 0.08, "sizes": [64, 96], "name": "größe", "none": None})
        built.log((1, 20), {"loss": 1.23456789, "skipped": 3, "images_per_second": 99.0})
        built.log((1,), {"AP": None, "AP50": 0.5, "memory": 10**9, "seconds": 1.0, "flag": True})
        built.log((), {})
    return path.read_bytes(), capsys.readouterr().out


def test_the_package_and_our_own_lines_are_the_same_bytes(
    tmp_path: Path,
    dllogger: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in (lines, dllogger):
        monkeypatch.setattr(module, "datetime", Clock)
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    own = written(ours, lambda: JsonLines(ours), StdoutLines, capsys)
    package = written(theirs, lambda: build_json_logger(theirs), build_stdout_logger, capsys)
    assert own[0] == package[0]
    assert own[1] == package[1]
    assert len(own[0].splitlines()) == len(METADATA) + 4
    assert len(own[1].splitlines()) == 4


def test_dllogger_writes_where_it_is_installed(tmp_path: Path, dllogger: Any) -> None:
    file, stdout = build_json_logger(tmp_path / "log.jsonl"), build_stdout_logger()
    assert isinstance(file, PackageLogger)
    assert isinstance(file.backend, dllogger.JSONStreamBackend)
    assert isinstance(stdout, PackageLogger)
    assert isinstance(stdout.backend, dllogger.StdOutBackend)


def test_without_dllogger_the_lines_are_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(build_json_logger(tmp_path / "log.jsonl"), JsonLines)
    assert isinstance(build_stdout_logger(), StdoutLines)


@pytest.mark.parametrize("installed", [True, False])
def test_a_file_is_continued_after_its_last_whole_line(
    tmp_path: Path, installed: bool, request: pytest.FixtureRequest
) -> None:
    if installed:
        request.getfixturevalue("dllogger")
    path = tmp_path / "log.jsonl"
    path.write_text("DLLL {}\nDLLL {torn")
    logger = build_json_logger(path)
    logger.log((), {"AP": 0.5})
    logger.close()
    logger.log((), {"AP": 0.25})
    found = path.read_text().splitlines()
    assert found[0] == "DLLL {}"
    assert all(line.startswith('DLLL {"timestamp": ') for line in found[1:])
    assert [line.partition('"data": ')[2] for line in found[1:]] == [
        '{"AP": 0.5}}',
        '{"AP": 0.25}}',
    ]


def test_what_the_package_prints_is_out_at_once(
    dllogger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(out)))  # type: ignore[arg-type]
    build_stdout_logger().log((), {"AP": 0.5})
    assert out.getvalue().endswith(b" - () AP : 0.5 \n")


def test_every_unit_and_format_fits_a_number() -> None:
    for metric, metadata in METADATA.items():
        line = stdout_line(NOW, (1,), {metric: 1}, METADATA)
        assert line.startswith("DLL 2026-11-21 03:41:42.260804 - (1,) " + metric + " : 1")
        assert line.endswith(metadata.get("unit", " "))
    assert METADATA["images_per_second"]["unit"] == "img/s"
    assert METADATA["memory"]["unit"] == "bytes"
    assert METADATA["seconds"]["unit"] == "s"
