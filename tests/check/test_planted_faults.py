# SPDX-License-Identifier: Apache-2.0
"""Every kind of finding planted into a set in which nothing is wrong, and found under its id."""

from pathlib import Path

import pytest

from effdet.check import KINDS, CheckReport, check_data
from effdet.config import model_config
from tests.check import planted_boxes, planted_files, planted_images
from tests.check.sets import DataSet

PLANTS = planted_files.PLANTS | planted_images.PLANTS | planted_boxes.PLANTS

ALSO: dict[str, set[str]] = {
    "files.missing": {"files.orphan"},
    "files.wrong_name": {"files.orphan"},
    "ids.duplicate_image": {"files.orphan"},
    "ids.gaps": {"classes.no_instances"},
    "splits.classes_differ": {"classes.only_in_val"},
    "classes.background": {"classes.no_instances"},
    "classes.same_name": {"classes.no_instances"},
    "classes.near_name": {"classes.few_instances"},
    "images.tiny": {"images.uniform"},
    "anchors.better": {"anchors.unreached"},
}
"""Warnings and errors that the same fault is bound to cause."""


def check(data: DataSet | Path, **options: object) -> CheckReport:
    if isinstance(data, DataSet):
        data.save()
        data = data.folder
    arguments = {"max_pixels": 10**6, "workers": 1} | options
    return check_data(str(data), model_config("efficientdet_d0"), **arguments)  # type: ignore[arg-type]


def found(report: CheckReport) -> dict[str, int]:
    return {finding.kind.id: finding.count for finding in report.findings}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DataSet(tmp_path_factory.mktemp("sound") / "data").folder


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path / "data")


CASES = [(id_, number) for id_, planted in PLANTS.items() for number in range(len(planted))]


def test_every_kind_is_planted() -> None:
    formats = {"file.damaged"}  # of formats with a file an image: test_reading.py
    assert set(PLANTS) == set(KINDS) - formats
    assert len(PLANTS) >= 30


def test_nothing_is_found_where_nothing_is_wrong(sound: Path) -> None:
    report = check(sound)
    assert found(report) == {}
    assert report.anchors is not None
    assert report.anchors.own.reached == 1


@pytest.mark.parametrize(("id_", "number"), CASES, ids=[f"{i}-{n}" for i, n in CASES])
def test_a_planted_fault_is_found_under_its_id(id_: str, number: int, data: DataSet) -> None:
    PLANTS[id_][number](data)
    report = check(data)
    assert id_ in found(report), found(report)
    others = {
        finding.kind.id
        for finding in report.findings
        if finding.kind.severity != "info" and finding.kind.id != id_
    }
    assert others <= ALSO.get(id_, set())
    for finding in report.findings:
        assert len(finding.examples) <= 5
        assert finding.examples, finding.kind.id
