# SPDX-License-Identifier: Apache-2.0
"""Class names that are probably misspelt are told with the right ones, and others are not."""

import json
from itertools import product
from pathlib import Path

import pytest

from effdet.check import check_data
from effdet.check.spelling import MOST, MOST_ALIKE, spellings
from effdet.config import model_config
from effdet.data.convert import convert_data
from tests.check.sets import DataSet

FREQUENT, RARE = 1, 2


def likely(frequent: str, rare: str) -> bool:
    """Whether ``rare`` is taken for a slip of ``frequent``, and never the other way."""
    found = spellings({FREQUENT: frequent, RARE: rare}, {FREQUENT: 50, RARE: 2})
    assert found in ({}, {RARE: FREQUENT})
    return bool(found)


@pytest.mark.parametrize(
    ("frequent", "rare"),
    [
        ("Platelets", "Platlet"), ("cat", "cat "), ("cat", "Cat"), ("person", "persons"),
        ("traffic light", "traffic_light"), ("traffic light", "trafic light"),
        ("trafficlight", "Traffic Light"), ("motorcycle", "motorcicle"), ("truck", "trucks"),
    ],
)  # fmt: skip
def test_a_slip_is_known(frequent: str, rare: str) -> None:
    assert likely(frequent, rare)


@pytest.mark.parametrize(
    ("frequent", "rare"),
    [
        ("cat", "car"), ("horse", "house"), ("with_mask", "without_mask"), ("healthy", "unhealthy"),
        ("goggles", "no_goggles"), ("speed_30", "speed_80"), ("speed30", "speed80"),
        ("category_a", "category_b"), ("HER2+", "HER2-"), ("bear", "teddy bear"), ("", "cat"),
        ("red light", "green light"), ("typical", "atypical"), ("a" * 80 + "b", "a" * 80),
    ],
)  # fmt: skip
def test_another_name_is_no_slip(frequent: str, rare: str) -> None:
    assert not likely(frequent, rare)


def test_of_names_without_boxes_and_of_very_many_nothing_is_said() -> None:
    assert spellings({1: "person", 2: "persons"}, {1: 5, 2: 0}) == {}
    many = {number: "Persons"[: 6 + number % 2] for number in range(MOST + 1)}
    assert spellings(many, dict.fromkeys(many, 1)) == {}


def test_of_very_many_names_that_begin_alike_none_is_compared() -> None:
    letters = map("".join, product("abcd", repeat=4))
    alike = {id_: f"plate{end}" for id_, end in enumerate(letters)}
    assert len(alike) > MOST_ALIKE
    few = dict(list(alike.items())[:MOST_ALIKE])
    assert spellings(few, dict.fromkeys(few, 1)) != {}
    names = alike | {1000: "dolphin", 1001: "dolphn"}
    assert spellings(names, dict.fromkeys(names, 1)) == {1000: 1001, 1001: 1000}


@pytest.mark.parametrize(
    ("split", "id_"), [("val", "classes.only_in_val"), ("train", "classes.only_in_train")]
)
def test_a_misspelt_class_of_one_split_is_told_with_the_right_name(
    split: str, id_: str, tmp_path: Path
) -> None:
    data = DataSet(tmp_path / "coco")
    for content in data.content.values():
        content["categories"][1]["name"] = "Platelets"
    data.save()
    convert_data(data.folder, tmp_path / "voc", "voc")
    label = tmp_path / "voc" / "Annotations" / f"{data.path(0, split).stem}.xml"
    label.write_text(label.read_text().replace("Platelets", "Platlet"))
    report = check_data(
        str(tmp_path / "voc"), model_config("efficientdet_d0"), images=False, max_pixels=10**6
    )
    (finding,) = (f for f in report.findings if f.kind.id == id_)
    (example,) = finding.examples
    assert "'Platlet'" in example.text
    assert example.text.endswith("; did you mean 'Platelets'?")
    assert not [f for f in report.findings if f.kind.id == "classes.near_name"]


def test_coco_has_no_two_names_that_are_nearly_equal(data_folder: Path) -> None:
    (file, *_) = sorted((data_folder / "coco_mini" / "annotations").glob("instances_*.json"))
    names = {c["id"]: c["name"] for c in json.loads(file.read_text())["categories"]}
    assert spellings(names, dict.fromkeys(names, 1)) == {}
