# SPDX-License-Identifier: Apache-2.0
"""What the README and the page of measurements say is so."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from effdet.commands.info import describe
from effdet.config import MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MEASURED = (ROOT / "docs" / "measurements.md").read_text()


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdet_lite0"])
def test_the_model_table_holds_the_counted_figures(name: str) -> None:
    model = describe(MODELS[name])
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {model['parameters']:,} |" in row
    assert f"| {model['multiply_adds'] / 1e9:.3f} G |" in row
    assert f"| {model['anchors']:,} |" in row


def test_every_model_is_in_the_table() -> None:
    assert all(f"| `{name}` |" in README for name in MODELS)


def measured(name: str) -> str:
    """The row about a result file."""
    return next(line for line in MEASURED.splitlines() if f"results/{name}.json" in line)


def test_the_readme_has_some_of_the_measured_rows() -> None:
    rows = [line for line in README.splitlines() if "benchmarks/results/" in line]
    assert rows
    assert {row.replace("](benchmarks/", "](../benchmarks/") for row in rows} < set(
        MEASURED.splitlines()
    )


@pytest.mark.parametrize("name", ["demo_shapes", "bccd_lite0"])
def test_the_measured_figures_are_those_of_the_result_files(name: str) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    figures = result["validation"]["figures"]
    row = measured(name)
    assert f"AP {figures['AP']:.3f}" in row
    assert f"AP50 {figures['AP50']:.3f}" in row
    assert f"{result['training_seconds'] / 60:.0f} min" in row


def result(name: str) -> dict[str, Any]:
    """The figures of a program in benchmarks/."""
    file = ROOT / "benchmarks" / "results" / f"{name}.json"
    return cast(dict[str, Any], json.loads(file.read_text()))


def span(values: Iterable[float]) -> str:
    """``7 to 12`` for figures that lie in between."""
    low, high = min(values := list(values)), max(values)
    return f"{low:.0f} to {high:.0f}"


def operator_figures() -> dict[str, list[str]]:
    """What the rows about operators must say, by result file."""
    focal = result("focal_loss")
    exact = [row for row in focal["times_ms"] if row["dtype"] == "float32"]
    assignment = {row["boxes_an_image"]: row for row in result("assignment")["rows"]}
    nms = [r for r in result("nms")["rows"] if (r["boxes"], r["max_detections"]) == (5000, 100)]
    hard = [row for row in result("postprocess")["rows"] if row["method"] == "hard"]
    ema = [row for row in result("ema")["times_ms"] if row["threads"] == 1]
    return {
        "focal_loss": [
            f"{span(r['times_faster_than_torchvision'] for r in exact)} times torchvision",
            f"{span(r['times_faster_than_compiled'] for r in exact)} times torch.compile",
            f"memory {focal['peak_memory_in_sizes_of_the_logits']['ours']:.1f} times",
        ],
        "assignment": [
            f"{assignment[8]['times_faster']:.0f} and {assignment[100]['times_faster']:.0f} times"
        ],
        "box_loss": [f"{span(r['times_faster'] for r in result('box_loss')['rows'])} times"],
        "nms": [f"{nms[0]['times_faster_than_torchvision']:.0f} times"],
        "postprocess": [f"{span(r['times_faster_than_peer'] for r in hard)} times"],
        "ema": [" and ".join(f"{r['operator_times_faster_than_foreach_lerp']:.2f}" for r in ema)],
        "sanitize": [
            f"{result('sanitize')['cases']:,}",
            f"{result('sanitize')['reports']} reports",
        ],
    }


def test_the_counted_instructions_are_those_of_the_result_file() -> None:
    rows = [row for row in result("machine_code")["rows"] if row["dtype"] != "float32"]
    wanted = f"{span(row['instructions_a_logit'] for row in rows)} instructions a 16-bit"
    assert wanted in MEASURED


@pytest.mark.parametrize(("name", "figures"), operator_figures().items())
def test_the_operators_figures_are_those_of_the_result_files(name: str, figures: list[str]) -> None:
    row = measured(name)
    for figure in figures:
        assert figure in row


def test_the_exports_figures_are_those_of_the_result_file() -> None:
    row = measured("export")
    cases = result("export")["cases"]
    forms = [form for case in cases for form in case["forms"]]
    for case in cases:
        assert f"AP {case['AP of PyTorch']:.3f}" in row
        assert f"{case['images']} " in row
    largest = max(form["largest_box_difference_pixels"] for form in forms)
    assert f"boxes at most {largest:g} pixels apart" in row
    assert "none missing" in row
    assert not any(form["missing"] for form in forms)
    assert "AP equal" in row
    assert max(abs(form["AP_minus_PyTorch"]) for form in forms) < 1e-5


def test_the_checks_seconds_are_those_of_the_result_file() -> None:
    figures = result("check")
    names = [f"val2017_annotations{form}" for form in ("", "_voc", "_yolo")]
    first, second, third = (f"{figures[name]['seconds']:.1f}" for name in names)
    assert f"{first}, {second} and {third} s" in measured("check")


def test_the_speed_of_exported_files_is_that_of_the_result_file() -> None:
    ratios = {
        (form["weights"], timing["batch_size"]): timing["ratio"]
        for form in result("forms")["forms"]
        for timing in form["timings"]
        if timing["stage"] == "files"
    }
    names = ("onnx.onnx", "openvino.xml", "aoti.pt2", "torch-export.pt2")
    times = (f"{1 / ratios[name, 1]:.1f} and {1 / ratios[name, 8]:.1f}" for name in names)
    assert f"| {', '.join(times)} times |" in measured("forms")


def test_the_cases_of_hostile_annotations_are_those_of_the_result_file() -> None:
    figures = result("hostile_annotations")
    cases = f"{figures['cases']:,} and {figures['results_cases']:,} cases, none accepted wrongly"
    assert cases in measured("hostile_annotations")
    assert figures["failures"] == []


def test_the_gain_of_more_looks_is_that_of_the_result_file() -> None:
    ways = {way["way"]: way for way in result("inference")["ways"]}
    names = ("plain", "--tta", "--tile 320", "--tile 320 --tta")
    aps = ", ".join(f"{ways[name]['AP']:.3f}" for name in names)
    times = ", ".join(f"{1 / ways[name]['speed_to_plain']:.0f}" for name in names)
    assert f"AP {aps}, in {times} times the time" in measured("inference")


def test_the_users_day_is_that_of_the_result_file() -> None:
    days = result("user_day")
    aps = [f"{days[form]['AP']:.3f}" for form in ("voc", "yolo")]
    assert f"AP {' and '.join(aps)}" in measured("user_day")


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks" / "results").glob("*.[jmt]*")))
def test_results_name_no_folder_of_the_machine(file: Path) -> None:
    assert not re.search(r"/(tmp|home|root|work|Users)/", file.read_text())
