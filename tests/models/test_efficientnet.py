# SPDX-License-Identifier: Apache-2.0
import ast
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from effdet.config import BACKBONES, ClassifierConfig, model_config
from effdet.models import (
    EfficientDet,
    EfficientNet,
    EfficientNetClassifier,
    multiply_adds,
    trainable_parameters,
)
from effdet.models.efficientnet import MBConv, scaled_channels, scaled_stages
from effdet.models.layers import StridedConv2dSame
from effdet.weights import translate
from effdet.weights.formats.tensorflow import open_tensorflow
from effdet.weights.sources.automl import CLASSIFIER
from tests import golden
from tests.weights.tf_writer import write_with_raw

PARAMETERS = {
    "b0": 5288548, "b1": 7794184, "b2": 9109994, "b3": 12233232, "b4": 19341616, "b5": 30389784,
    "b6": 43040704, "b7": 66347960,
}  # fmt: skip
LITE_PARAMETERS = {"lite0": 4.652, "lite1": 5.417, "lite2": 6.092, "lite3": 8.197, "lite4": 13.007}
CHANNELS = {
    "b0": [40, 112, 320], "b1": [40, 112, 320], "b2": [48, 120, 352], "b3": [48, 136, 384],
    "b4": [56, 160, 448], "b5": [64, 176, 512], "b6": [72, 200, 576], "b7": [80, 224, 640],
    "lite0": [40, 112, 320], "lite1": [40, 112, 320], "lite2": [48, 120, 352],
    "lite3": [48, 136, 384], "lite4": [56, 160, 448],
}  # fmt: skip
BLOCKS = {"b0": 16, "b1": 23, "b2": 23, "b3": 26, "b4": 32, "b5": 39, "b6": 45, "b7": 55}


def classifier(name: str) -> EfficientNetClassifier:
    with torch.device("meta"):
        return EfficientNetClassifier(ClassifierConfig(backbone=f"efficientnet_{name}")).eval()


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_classifiers_have_the_published_number_of_parameters(name: str, count: int) -> None:
    assert trainable_parameters(classifier(name)) == count


@pytest.mark.parametrize(("name", "millions"), LITE_PARAMETERS.items())
def test_lite_classifiers_have_the_published_number_of_parameters(
    name: str, millions: float
) -> None:
    assert round(trainable_parameters(classifier(name)) / 1e6, 3) == millions


@pytest.mark.parametrize(
    ("name", "side", "billions"), [("b0", 224, 0.3858), ("b3", 300, 1.8271), ("b7", 600, 37.7459)]
)
def test_classifiers_have_the_references_multiply_adds(
    name: str, side: int, billions: float
) -> None:
    image = torch.empty(1, 3, side, side, device="meta")
    assert round(multiply_adds(classifier(name), image) / 1e9, 4) == billions


@pytest.mark.parametrize(("name", "channels"), CHANNELS.items())
def test_detectors_get_the_published_channels(name: str, channels: list[int]) -> None:
    with torch.device("meta"):
        backbone = EfficientNet(BACKBONES[f"efficientnet_{name}"])
    assert backbone.out_channels == channels
    assert name not in BLOCKS or len(backbone.blocks) == BLOCKS[name]


def test_channels_are_rounded_to_eights_but_never_by_more_than_a_tenth_down() -> None:
    assert [scaled_channels(c, 1.1) for c in (16, 24, 40, 80)] == [16, 24, 48, 88]
    assert scaled_channels(16, 1.2) == 24  # 19.2 would become 16, a sixth less
    assert scaled_channels(32, 1.0) == 32
    assert scaled_channels(1280, 2.0) == 2560


def test_lite_deepens_neither_its_first_nor_its_last_stage() -> None:
    repeats = [stage.repeats for stage in scaled_stages(BACKBONES["efficientnet_lite4"])]
    assert repeats == [1, 4, 4, 6, 6, 8, 1]
    repeats = [stage.repeats for stage in scaled_stages(BACKBONES["efficientnet_b4"])]
    assert repeats == [2, 4, 4, 6, 6, 8, 2]


def test_lite_has_relu6_and_no_squeeze_and_excitation() -> None:
    with torch.device("meta"):
        kinds = {type(m).__name__ for m in EfficientNet(BACKBONES["efficientnet_lite0"]).modules()}
        full = {type(m).__name__ for m in EfficientNet(BACKBONES["efficientnet_b0"]).modules()}
    assert "ReLU6" in kinds
    assert not kinds & {"SiLU", "SqueezeExcite"}
    assert {"SiLU", "SqueezeExcite"} <= full
    assert "ReLU6" not in full


def test_the_squeeze_is_a_quarter_of_the_blocks_input() -> None:
    with torch.device("meta"):
        backbone = EfficientNet(BACKBONES["efficientnet_b0"])
    block = backbone.blocks[3]  # 24 channels in, 144 hidden
    assert isinstance(block, MBConv)
    assert tuple(block.se.reduce.weight.shape) == (6, 144, 1, 1)  # type: ignore[union-attr]


def test_later_blocks_are_dropped_more_often() -> None:
    with torch.device("meta"):
        backbone = EfficientNet(BACKBONES["efficientnet_b0"], survival_prob=0.8)
    kept = [block.survival_prob for block in backbone.blocks]
    assert kept == pytest.approx([1 - 0.2 * i / 16 for i in range(16)])


def test_any_pyramid_level_can_be_asked_for() -> None:
    with torch.device("meta"):
        backbone = EfficientNet(BACKBONES["efficientnet_b0"], (1, 2, 3, 4, 5))
        features = backbone(torch.empty(2, 3, 65, 96))
    assert [tuple(f.shape[1:]) for f in features] == [
        (16, 33, 48), (24, 17, 24), (40, 9, 12), (112, 5, 6), (320, 3, 3),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def reference_b0(tmp_path_factory: pytest.TempPathFactory) -> EfficientNetClassifier:
    """B0 with the averages of a TensorFlow checkpoint that has the reference run's weights."""
    values = {
        name: golden.variable(name, shape)
        for listed, shape in golden.shapes("efficientnet-b0").items()
        for name in [listed.replace("head_1", "head")]
    }
    file = open_tensorflow(write_with_raw(tmp_path_factory.mktemp("b0") / "model", values))
    shapes = {name: stored.shape for name, stored in file.tensors.items()}
    (config,) = translate.identify(CLASSIFIER, shapes)
    assert config == ClassifierConfig(backbone="efficientnet_b0")
    model = EfficientNetClassifier(config).eval()
    model.load_state_dict(translate.state_dict(CLASSIFIER, config, file.best()))
    return model


@torch.no_grad()
def test_b0_gives_the_references_logits(reference_b0: EfficientNetClassifier) -> None:
    """At 97 x 97, where SAME pads odd sizes; to 1e-4 of their deviation of 0.11."""
    (line,) = [found for found in golden.lines("efficientnet-b0 97") if "logits" in found]
    numbers = re.search(r"logits \[(.*?)\] mean (\S+) std (\S+) (\[.*\])", line)
    assert numbers is not None
    logits = reference_b0(golden.image(97, 97))[0]
    expected = torch.tensor([float(n) for n in numbers[1].split()])
    std = float(numbers[3])
    assert_close(logits[:4], expected, rtol=0, atol=1e-4 * std)
    assert logits.mean().item() == pytest.approx(float(numbers[2]), abs=1e-4 * std)
    assert logits.std(correction=0).item() == pytest.approx(std, rel=1e-4)


@torch.no_grad()
def test_b0_has_the_references_features(reference_b0: EfficientNetClassifier) -> None:
    (line,) = [found for found in golden.lines("efficientnet-b0 97") if "logits" in found]
    expected = ast.literal_eval(line[line.index("[((") :])
    backbone = EfficientNet(BACKBONES["efficientnet_b0"], (1, 2, 3, 4, 5)).eval()
    backbone.load_state_dict(reference_b0.backbone.state_dict())
    for feature, (shape, text) in zip(backbone(golden.image(97, 97)), expected, strict=True):
        assert tuple(feature.permute(0, 2, 3, 1).shape) == shape
        std = float(text.removeprefix("std "))
        assert feature.std(correction=0).item() == pytest.approx(std, rel=1e-4)


def test_fresh_weights_have_the_papers_spread() -> None:
    torch.manual_seed(0)
    model = EfficientNetClassifier(ClassifierConfig(backbone="efficientnet_b0"))
    project = model.backbone.blocks[-1].project.conv  # 1152 -> 320
    assert project.weight.std().item() == pytest.approx((2 / 320) ** 0.5, rel=0.01)
    depthwise = model.backbone.blocks[-1].depthwise.conv  # 3 x 3, fan-out 9
    assert depthwise.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert not model.backbone.blocks[-1].se.reduce.bias.any()
    limit = 1000**-0.5
    weight = model.classifier.weight
    assert weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.01)
    assert not model.classifier.bias.any()


@pytest.mark.parametrize(
    ("changes", "eps"),
    [
        ({}, 1e-3),
        ({"padding": "symmetric"}, 1e-5),
        ({"padding": "symmetric", "backbone_bn_eps": 1e-3}, 1e-3),
        ({"backbone_padding": "symmetric"}, 1e-5),
    ],
)
def test_the_epsilon_of_a_backbone_follows_its_padding_or_is_given(
    changes: dict[str, Any], eps: float
) -> None:
    with torch.device("meta"):
        model = EfficientDet(model_config("efficientdet_d0", **changes))
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {eps}
    assert {norm.momentum for norm in norms} == {0.01}
    others = [m for m in model.box_head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in others} == {1e-3}


def test_a_backbone_may_pad_otherwise_than_the_rest() -> None:
    config = model_config("efficientdet_d0", backbone_padding="symmetric")
    with torch.device("meta"):
        model = EfficientDet(config)
    assert not any(isinstance(m, StridedConv2dSame) for m in model.modules())
    assert model.bifpn.extra_levels[0].padding == "same"
    assert model.bifpn.extra_levels[0].conv.bias is not None
