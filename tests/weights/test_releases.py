# SPDX-License-Identifier: Apache-2.0
import re
from collections import Counter

import pytest

from effdet.config import BACKBONES, HALF, IMAGENET_MEAN, IMAGENET_STD, MODELS
from effdet.weights import releases
from effdet.weights.releases import (
    RELEASES,
    Release,
    release_of_file,
    release_with_hash,
)

ROWS = list(RELEASES.values())
FULL_RANGE = {
    *(f"tf_efficientdet_d{n}_ap" for n in range(6)),
    *(f"tf_efficientdet_lite{n}" for n in ("0", "1", "2", "3", "3x", "4")),
    *(f"tf_efficientnet_b{n}.ap_in1k" for n in range(8)),
    *(f"tf_efficientnet_lite{n}.in1k" for n in range(5)),
    *(f"lukemelas_efficientnet_b{n}_advprop" for n in range(8)),
}
"""Names of the weights that want images in [-1, 1]."""


def name_of(release: Release) -> str:
    return release.name


def pixels(values: tuple[float, ...]) -> list[object]:
    """Values for images in [0, 1] as those for 0-255."""
    return [pytest.approx(255 * value) for value in values]


def test_no_name_no_file_and_no_hash_stands_twice() -> None:
    assert len(RELEASES) == sum(len(rows) for _, _, rows in releases._PROGRAMS)
    for key in ("url", "file_name", "sha256"):
        (_, count), *_ = Counter(getattr(row, key) for row in ROWS).most_common(1)
        assert count == 1, key


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_row_is_a_published_file_with_a_published_hash(row: Release) -> None:
    assert row.url.startswith("https://")
    assert row.url.endswith("/" + row.file_name)
    found = re.fullmatch(r".+-([0-9a-f]{8})\.pth", row.file_name)
    assert found is not None
    assert row.sha256.startswith(found[1])
    if row.hash_from == "file name":
        assert row.sha256 == found[1]
    else:
        assert row.hash_from.startswith("https://")
        assert re.fullmatch("[0-9a-f]{64}", row.sha256)
    assert row.licence in ("Apache-2.0", "BSD-3-Clause")
    assert row.size is None or row.size > 1_000_000


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_row_is_of_the_model_that_its_file_is_named_after(row: Release) -> None:
    assert row.model in (MODELS if row.kind == "detector" else BACKBONES)
    plain = re.sub(r"[._-]", "_", row.file_name)
    assert re.search(rf"(^|_){row.model}_", plain)
    assert row.score is None or (25 < row.score < 55 if row.kind == "detector" else row.score > 70)


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_row_says_what_its_images_are_like(row: Release) -> None:
    full_range = row.name in FULL_RANGE
    assert (row.mean, row.std) == ((HALF, HALF) if full_range else (IMAGENET_MEAN, IMAGENET_STD))


def test_all_weights_for_other_images_are_in_the_table() -> None:
    assert set(RELEASES) >= FULL_RANGE


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("tf_efficientdet_d0", "same"),
        ("efficientdet_d0", "symmetric"),
        ("tf_efficientnet_b0.in1k", "same"),
        ("efficientnet_b0.ra_in1k", "symmetric"),
        ("torchvision_efficientnet_b0", "symmetric"),
        ("lukemelas_efficientnet_b0", "same"),
    ],
)
def test_the_padding_is_that_of_the_program(name: str, padding: str) -> None:
    assert RELEASES[name].padding == padding


def test_a_release_is_found_by_its_hash_and_by_its_file() -> None:
    row = RELEASES["tf_efficientdet_d0_ap"]
    assert release_with_hash("d0cdbd0a" + 56 * "0") is row
    assert release_with_hash("d0cdbd0b" + 56 * "0") is None
    assert release_of_file("/some/where/tf_efficientdet_d0_ap-d0cdbd0a.pth") is row
    assert release_of_file("mine.pth") is None


def test_where_the_whole_hash_is_published_its_first_digits_are_not_enough() -> None:
    row = RELEASES["torchvision_efficientnet_b0"]
    assert release_with_hash(row.sha256) is row
    assert release_with_hash(row.sha256[:-1] + "0") is None


@pytest.mark.parametrize("row", [r for r in ROWS if r.source == "torchvision"], ids=name_of)
def test_torchvision_says_the_same(row: Release) -> None:
    models = pytest.importorskip("torchvision.models")
    found = re.fullmatch(r"torchvision_efficientnet_(b\d)(_v2)?", row.name)
    assert found is not None
    kinds = getattr(models, f"EfficientNet_{found[1].upper()}_Weights")
    weights = kinds.IMAGENET1K_V2 if found[2] else kinds.IMAGENET1K_V1
    assert weights.url == row.url
    assert weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] == row.score
    images = weights.transforms()
    assert list(row.mean) == pixels(images.mean)
    assert list(row.std) == pixels(images.std)


@pytest.mark.parametrize("row", [r for r in ROWS if r.source == "timm"], ids=name_of)
def test_timm_says_the_same(row: Release) -> None:
    efficientnet = pytest.importorskip("timm.models.efficientnet")
    architecture, tag = row.name.split(".")
    config = efficientnet.default_cfgs[architecture].cfgs[tag]
    repository, file_name = config.url.split("/releases/download/v0.1-weights/")
    assert file_name == row.file_name
    assert repository.endswith("/pytorch-image-models")
    assert list(row.mean) == pixels(config.mean)
    assert list(row.std) == pixels(config.std)
    assert config.license == row.licence.lower()
