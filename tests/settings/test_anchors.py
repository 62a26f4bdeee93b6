# SPDX-License-Identifier: Apache-2.0
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from effdet import flags
from effdet.config import model_config
from effdet.errors import UsageError
from effdet.settings import TrainConfig
from effdet.settings.anchors import format_anchors, parse_anchors


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,0.5", {"aspect_ratios": (1.0, 2.0, 0.5)}),
        ("1,2@3.5", {"aspect_ratios": (1.0, 2.0), "anchor_scale": 3.5}),
        ("1@4x2", {"aspect_ratios": (1.0,), "anchor_scale": 4.0, "num_scales": 2}),
        ("1,3x4", {"aspect_ratios": (1.0, 3.0), "num_scales": 4}),
    ],
)
def test_anchors_are_read_from_one_word(text: str, values: dict[str, Any]) -> None:
    assert parse_anchors(text) == values


@pytest.mark.parametrize(
    "text", ["", "@4", "1,,2", "1 2", "one", "1@", "1@4x", "1@4x2.5", "1@4@5", "1x3@4", "1@4x3x3"]
)
def test_other_words_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(UsageError, match=r"as 1,2,0\.5@4x3, got"):
        parse_anchors(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,1", "aspect ratios that differ"),
        ("1,-2", "aspect_ratios must be a number in"),
        ("1,nan", "aspect_ratios must be a number in"),
        ("1@0", "anchor_scale must be"),
        ("1@4x0", "num_scales must be"),
        ("1@4x1000000", "num_scales must be"),
    ],
)
def test_numbers_that_cannot_be_are_refused_at_once(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(anchors=text)


@pytest.mark.parametrize("ratios", [(1.0, 2.0, 0.5), (1.0, 1.4 / 0.7, 0.7 / 1.4, 1 / 3)])
def test_the_same_anchors_are_read_again(ratios: tuple[float, ...]) -> None:
    config = dataclasses.replace(
        model_config("efficientdet_d0"), aspect_ratios=ratios, anchor_scale=0.1 + 0.2
    )
    again = model_config("efficientdet_d0", **parse_anchors(format_anchors(config)))
    assert again == config


def test_the_model_to_train_has_the_anchors_given(tmp_path: Path) -> None:
    config = TrainConfig(anchors="1,3@5x2")
    model = config.model_config(num_classes=3)
    assert (model.aspect_ratios, model.anchor_scale, model.num_scales) == ((1.0, 3.0), 5.0, 2)
    assert model.anchors_per_location == 4
    flags.save_yaml(config, tmp_path / "config.yaml")
    words = ["--config", str(tmp_path / "config.yaml")]
    assert flags.parse(TrainConfig, words, program="x", description="x").anchors == "1,3@5x2"


def test_anchors_of_weights_of_the_same_model_are_kept() -> None:
    like = model_config("efficientdet_d0", aspect_ratios=(1.0, 3.0, 0.3), anchor_scale=2.0)
    settled = TrainConfig().settled(like)
    assert settled.anchors == "1,3,0.3@2x3"
    assert settled.model_config(num_classes=1).aspect_ratios == like.aspect_ratios
    assert TrainConfig(anchors="1,2,0.5@4").settled(like).anchors == "1,2,0.5@4"
    assert TrainConfig(model="efficientdet_d1").settled(like).anchors is None
    assert TrainConfig().settled(model_config("efficientdet_d7")).anchors is None
