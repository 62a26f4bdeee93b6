# SPDX-License-Identifier: Apache-2.0
"""SECURITY.md is true of the code: what it names exists, its limits are the code's."""

import re
from pathlib import Path

import pytest

from effdet import names, web
from effdet.annotations import brackets, json_file
from effdet.data import image_file
from effdet.data.formats import csv_read, voc_xml, yolo_read
from effdet.files import yaml_file
from effdet.settings import MAX_PIXELS
from effdet.weights.formats import pickled, pickled_values

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()


def test_the_tests_that_hold_the_promises_exist() -> None:
    paths = set(re.findall(r"`(tests/[\w/.]+)`", TEXT))
    assert len(paths) > 5
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("text", "value", "limit"),
    [
        ("50 million pixels", 50_000_000, MAX_PIXELS),
        ("settings: 100 kB, 20 levels", (100_000, 20), (yaml_file.MAX_BYTES, yaml_file.MAX_DEPTH)),
        ("200 MB, six formats", (200_000_000, 6), (image_file.MAX_BYTES, len(image_file.FORMATS))),
        ("annotations: 4 GB", 4 << 30, json_file.MAX_BYTES),
        ("a pickle: 16 MB", 16 * 2**20, pickled.MAX_BYTES),
        ("2 million operations", 2_000_000, pickled.MAX_OPERATIONS),
        ("64 levels", 64, pickled_values.MAX_DEPTH),
        (
            "annotations: 4 GB, 500 levels",
            (4 << 30, 500),
            (json_file.MAX_BYTES, brackets.MAX_DEPTH),
        ),
        ("4 GB at most", 1 << 32, web.MAX_SIZE),
        ("XML: 10 MB, 50 levels", (10**7, 50), (voc_xml.MAX_BYTES, voc_xml.MAX_DEPTH)),
        ("YOLO labels: 50 MB", 50 * 10**6, yolo_read.MAX_BYTES),
        ("CSV: 1 GB", 1 << 30, csv_read.MAX_BYTES),
        ("60 characters in tables", 60, names.LONGEST_SHOWN),
        ("255 bytes in file names", 255, names.LONGEST_FILE_NAME),
    ],
)
def test_the_limits_are_those_of_the_code(text: str, value: object, limit: object) -> None:
    assert text in TEXT
    assert value == limit


def test_the_readme_leads_there() -> None:
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text()
