# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from typing import Any

import pytest

from effdet.config import MODELS, ModelConfig, model_config, size_pair
from effdet.errors import UsageError
from effdet.settings import (
    InfoConfig,
    PostprocessConfig,
    PredictConfig,
    TrainConfig,
    ValidateConfig,
    select_postprocess,
)


def test_the_table_has_all_fifteen_models() -> None:
    names = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x"]
    names += ["lite0", "lite1", "lite2", "lite3", "lite3x", "lite4"]
    assert list(MODELS) == [f"efficientdet_{name}" for name in names]
    assert all(config.name == name for name, config in MODELS.items())


@pytest.mark.parametrize("config", MODELS.values(), ids=list(MODELS))
def test_lite_models_are_fed_and_built_otherwise(config: ModelConfig) -> None:
    assert config.lite == ("lite" in config.name)
    assert config.mean == ((127, 127, 127) if config.lite else (123.675, 116.28, 103.53))
    assert config.std == ((128, 128, 128) if config.lite else (58.395, 57.12, 57.375))
    assert config.num_classes == 90
    assert config.anchors_per_location == 9


def test_fusion_anchor_scale_and_levels_are_those_of_the_released_models() -> None:
    weighted = [name for name, config in MODELS.items() if config.fusion == "fastattn"]
    assert weighted == [f"efficientdet_d{n}" for n in range(6)]
    scales = {n: c.anchor_scale for n, c in MODELS.items() if c.anchor_scale != 4}
    assert scales == {
        "efficientdet_d7": 5, "efficientdet_lite0": 3, "efficientdet_lite1": 3,
        "efficientdet_lite2": 3, "efficientdet_lite3x": 3,
    }  # fmt: skip
    assert [n for n, c in MODELS.items() if c.max_level != 7] == ["efficientdet_d7x"]
    assert list(MODELS["efficientdet_d7x"].levels) == [3, 4, 5, 6, 7, 8]


def test_only_d0_has_no_stochastic_depth() -> None:
    assert [n for n, c in MODELS.items() if c.survival_prob == 1] == ["efficientdet_d0"]
    assert MODELS["efficientdet_lite0"].survival_prob == 0.8


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="'efficientdet-d0'; did you mean efficientdet_d0"):
        model_config("efficientdet-d0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (63, 512)}, r"at least 64 pixels a side, got 63 x 512 \(height x width\)"),
        ({"num_classes": 0}, r"num_classes must be a whole number in \[1, 65,536\], got 0"),
        ({"survival_prob": 0.0}, r"survival_prob must be a number in \(0, 1\], got 0.0"),
        ({"min_level": 6}, "got 6 and 7"),
        ({"max_level": 4}, "got 3 and 4"),
        ({"backbone": "efficientnet_b00"}, "did you mean efficientnet_b0"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model_config("efficientdet_d0", **changes)


def test_a_model_survives_the_plain_values_of_a_checkpoint() -> None:
    config = model_config("efficientdet_lite2", image_size=(96, 128), num_classes=3)
    plain = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.from_dict(plain) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be finite and above 0, got 0"),
        ({"lr": -0.1}, "lr must be finite and above 0, got -0.1"),
        ({"lr": float("nan")}, "lr must be finite and above 0, got nan"),
        ({"batch_size": 0}, "batch_size"),
        ({"log_every": 0}, "log_every"),
        ({"warmup_epochs": -1.0}, "warmup_epochs must be finite and at least 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\)"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\]"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"flip": -0.1}, "flip"),
        ({"lr": float("inf")}, "lr must be finite and above 0, got inf"),
        ({"seed": -1}, r"seed must be in \[0, 2\^32\), got -1"),
        ({"amp_dtype": "bfloat16"}, "--amp-dtype bfloat16 needs --amp"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"jitter_min": 2.0, "jitter_max": 1.0}, "at most the --jitter-max of 1, got 2.0"),
        ({"jitter_min": 0.0}, "jitter_min must be above 0"),
        ({"weights": "a", "backbone_weights": "b"}, "--weights or --backbone-weights"),
        ({"model": "efficientdet_d8"}, "unknown model 'efficientdet_d8'"),
        ({"image_size": (32,)}, "got 32 x 32"),
        ({"image_size": (128, 128, 3)}, "one or two numbers, got 3"),
        ({"iou_threshold": 1.1}, r"iou_threshold must be in \[0, 1\], got 1.1"),
        ({"score_threshold": -0.1}, "score_threshold"),
        ({"sigma": 0.0}, "sigma must be finite and above 0"),
        ({"max_detections": 0}, "max_detections must be at least 1"),
        ({"max_per_class": -1}, "max_per_class must be at least 0, got -1"),
    ],
)
def test_training_settings_that_cannot_work_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**values)


def test_training_settings_shape_the_model() -> None:
    config = TrainConfig(
        model="efficientdet_d1", image_size=(96, 128), padding="symmetric", fusion="sum"
    ).model_config(num_classes=7)
    assert (config.image_size, config.padding, config.fusion) == ((96, 128), "symmetric", "sum")
    assert (config.num_classes, config.width) == (7, 88)
    plain = TrainConfig(model="efficientdet_d1").model_config(num_classes=90)
    assert plain == MODELS["efficientdet_d1"]


def test_one_number_is_the_side_of_a_square_and_two_are_height_and_width() -> None:
    assert size_pair((128,)) == (128, 128)
    assert size_pair((96, 128)) == (96, 128)


def test_validation_needs_exactly_one_thing_to_score() -> None:
    with pytest.raises(UsageError, match="--weights to validate a model or --predictions"):
        ValidateConfig()
    with pytest.raises(UsageError, match="--weights to validate a model or --predictions"):
        ValidateConfig(weights="w", predictions="p", annotations="a")
    with pytest.raises(UsageError, match="--predictions needs --annotations"):
        ValidateConfig(predictions="p")
    assert ValidateConfig(predictions="p", annotations="a").weights is None
    with pytest.raises(UsageError, match="--json writes a model's detections"):
        ValidateConfig(predictions="p", annotations="a", json="j")


def test_validation_defaults_are_those_of_published_figures() -> None:
    config = select_postprocess(ValidateConfig(weights="w"))
    assert config == PostprocessConfig()
    assert (config.nms, config.sigma, config.score_threshold) == ("gaussian", 0.5, 0.001)
    assert (config.max_candidates, config.max_detections, config.clip_boxes) == (5000, 100, False)
    assert (config.max_per_class, config.class_agnostic) == (0, False)


def test_prediction_defaults_show_few_sure_boxes_inside_the_image() -> None:
    config = select_postprocess(PredictConfig(source=("a",), weights="w", output="o"))
    assert (config.nms, config.iou_threshold, config.clip_boxes) == ("hard", 0.5, True)
    assert config.score_threshold == 0.3


def test_training_defaults_are_the_reference_recipe() -> None:
    config = TrainConfig()
    wanted = {
        "epochs": 300, "lr": 0.08, "warmup_lr": 0.008, "warmup_epochs": 1, "momentum": 0.9,
        "weight_decay": 4e-5, "clip_norm": 10, "ema_decay": 0.9998, "alpha": 0.25, "gamma": 1.5,
        "label_smoothing": 0, "box_loss_weight": 50, "jitter_min": 0.1, "jitter_max": 2.0,
        "flip": 0.5,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in wanted} == wanted


@pytest.mark.parametrize("cls", [TrainConfig, ValidateConfig, PredictConfig, InfoConfig])
def test_every_setting_has_one_line_of_help(cls: Any) -> None:
    for field in dataclasses.fields(cls):
        text = field.metadata["help"]
        assert text
        assert "\n" not in text


def test_a_single_image_is_refused_where_batch_norm_would_see_one_value() -> None:
    with pytest.raises(UsageError, match="--batch-size 2"):
        TrainConfig(batch_size=1, image_size=(128,))
    TrainConfig(batch_size=1, image_size=(129,))
    TrainConfig(batch_size=1, image_size=(128,), freeze_bn=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_detections", 1),
        ("nms", "hard"),
        ("use_ema", False),
        ("image_size", (64,)),
        ("images", "x"),
    ],
)
def test_what_is_about_a_model_is_refused_with_predictions(name: str, value: Any) -> None:
    flag = "no-use-ema" if name == "use_ema" else name.replace("_", "-")
    with pytest.raises(UsageError, match=f"--{flag} does nothing with --predictions"):
        ValidateConfig(predictions="p", annotations="a", **{name: value})
