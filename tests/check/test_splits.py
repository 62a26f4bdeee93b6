# SPDX-License-Identifier: Apache-2.0
"""Splits by other names: the check looks at those that training would read."""

import re
from pathlib import Path

import pytest

from effdet.check import CheckReport, check_data
from effdet.config import model_config
from tests.check.sets import DataSet


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """A training split that is called ``mine``, and ``val``."""
    data = DataSet(tmp_path / "data")
    data.content["mine"] = data.content.pop("train")
    (data.folder / "annotations" / "instances_train.json").unlink()
    (data.folder / "train").rename(data.folder / "mine")
    return data


def check(data: DataSet) -> CheckReport:
    data.save()
    config = model_config("efficientdet_d0")
    return check_data(str(data.folder), config, images=False, max_pixels=10**6)


def found(data: DataSet) -> dict[str, list[str]]:
    return {f.kind.id: [e.text for e in f.examples] for f in check(data).findings}


def test_the_only_split_that_is_not_val_is_the_one_to_train_on(data: DataSet) -> None:
    report = check(data)
    assert not report.findings
    assert [split.name for split in report.splits] == ["mine", "val"]
    assert report.anchors is not None
    assert report.anchors.split == "mine"


def test_a_single_split_lacks_val_alone(data: DataSet) -> None:
    (data.folder / "annotations" / "instances_val.json").unlink()
    del data.content["val"]
    assert found(data)["splits.missing"] == ["no split val; there are mine"]


def test_several_that_may_be_it_are_none(data: DataSet) -> None:
    data.content["more"] = data.content["mine"]
    (data.folder / "more").symlink_to("mine")
    assert found(data)["splits.missing"] == ["no split train; there are mine, more, val"]


def test_classes_of_val_are_compared_with_those_of_the_training_split(data: DataSet) -> None:
    data.content["val"]["categories"][0]["name"] = "kitten"
    (text,) = found(data)["splits.classes_renamed"]
    assert re.search("kitten.* here and .*cat.* there", text)


def test_boxes_of_val_are_compared_with_those_of_the_training_split(data: DataSet) -> None:
    for content in data.content.values():
        content["categories"].append({"id": 3, "name": "cow"})
    data.add_box(data.image(0, "val")["id"], [1, 1, 40, 40], "val", category=3)
    assert "none in mine" in found(data)["classes.only_in_val"][0]
