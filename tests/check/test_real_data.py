# SPDX-License-Identifier: Apache-2.0
"""What is found in real data sets; docs/check.md explains it."""

from pathlib import Path

import pytest

from effdet.check import CheckReport, check_data
from effdet.config import model_config


def check(folder: Path) -> CheckReport:
    if not folder.is_dir():
        pytest.skip(f"no {folder.name}")
    return check_data(str(folder), model_config("efficientdet_d0"), max_pixels=10**7)


def found(report: CheckReport) -> dict[str, int]:
    return {f.kind.id: f.count for f in report.findings}


def test_blood_cells_have_one_pair_of_pictures_in_two_splits(data_folder: Path) -> None:
    report = check(data_folder / "bccd")
    assert found(report) == {"splits.leakage_near": 1}
    (example,) = report.findings[0].examples
    assert example.file == "BloodImage_00037.jpg"
    assert "BloodImage_00038.jpg of train" in example.text
    assert report.anchors is not None
    assert report.anchors.own.reached > 0.99


def test_coco_has_no_errors_and_known_warnings(data_folder: Path) -> None:
    report = check(data_folder / "coco_mini")
    assert found(report) == {
        "boxes.tiny": 72,
        "boxes.extreme_shape": 17,
        "boxes.whole_image": 12,
        "classes.few_instances": 40,
        "classes.imbalance": 1,
        "images.without_boxes": 5,
        "ids.gaps": 10,
        "anchors.unreached": 648,
        "anchors.better": 1,
    }
    assert report.anchors is not None
    assert report.anchors.own.reached == pytest.approx(0.642, abs=0.001)
