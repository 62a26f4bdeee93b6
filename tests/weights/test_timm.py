# SPDX-License-Identifier: Apache-2.0
"""timm's and torchvision's classifiers: what is not the same for all programs."""

import pytest

from effdet.config import ClassifierConfig
from effdet.weights import translate
from effdet.weights.sources.timm import TIMM
from effdet.weights.sources.timm import tensor_name as timm_name
from effdet.weights.sources.torchvision import TORCHVISION
from effdet.weights.sources.torchvision import tensor_name as torchvision_name
from tests import golden


@pytest.mark.parametrize(
    ("ours", "in_timm", "in_torchvision"),
    [
        ("backbone.stem.conv.weight", "conv_stem.weight", "features.0.0.weight"),
        ("head.bn.bias", "bn2.bias", "features.8.1.bias"),
        ("classifier.bias", "classifier.bias", "classifier.1.bias"),
        # The first block has no expansion, so that all counts are one less.
        (
            "backbone.blocks.0.depthwise.bn.weight",
            "blocks.0.0.bn1.weight",
            "features.1.0.block.0.1.weight",
        ),
        (
            "backbone.blocks.0.se.reduce.weight",
            "blocks.0.0.se.conv_reduce.weight",
            "features.1.0.block.1.fc1.weight",
        ),
        (
            "backbone.blocks.0.project.conv.weight",
            "blocks.0.0.conv_pw.weight",
            "features.1.0.block.2.0.weight",
        ),
        (
            "backbone.blocks.2.expand.conv.weight",
            "blocks.1.1.conv_pw.weight",
            "features.2.1.block.0.0.weight",
        ),
        (
            "backbone.blocks.2.expand.bn.weight",
            "blocks.1.1.bn1.weight",
            "features.2.1.block.0.1.weight",
        ),
        (
            "backbone.blocks.2.depthwise.bn.weight",
            "blocks.1.1.bn2.weight",
            "features.2.1.block.1.1.weight",
        ),
        (
            "backbone.blocks.2.project.bn.weight",
            "blocks.1.1.bn3.weight",
            "features.2.1.block.3.1.weight",
        ),
    ],
)
def test_names_are_those_of_the_files(ours: str, in_timm: str, in_torchvision: str) -> None:
    assert timm_name("efficientnet_b0", ours) == in_timm
    assert torchvision_name("efficientnet_b0", ours) == in_torchvision


def test_blocks_are_counted_by_stage_whatever_the_depth() -> None:
    ours = "backbone.blocks.1.project.bn.bias"
    assert timm_name("efficientnet_b1", ours) == "blocks.0.1.bn2.bias"
    # Lite does not deepen its first stage.
    assert timm_name("efficientnet_lite1", ours) == "blocks.1.0.bn3.bias"


def test_a_pooling_model_keeps_a_convolution_that_a_backbone_has_not() -> None:
    """As ``timm.create_model(name, num_classes=0)`` saves it."""
    shapes = golden.listing("timm/efficientnet_b0")
    cut = {name: shape for name, shape in shapes.items() if not name.startswith("classifier.")}
    same, symmetric = translate.identify(TIMM, cut)
    assert same == ClassifierConfig(backbone="efficientnet_b0", num_classes=None)
    assert symmetric.padding == "symmetric"


def test_efficientnet_v2_is_refused_by_name() -> None:
    shapes = golden.listing("torchvision/efficientnet_b0")
    fused = shapes | {"features.1.0.block.0.0.weight": (24, 24, 3, 3)}
    assert TORCHVISION.recognises(fused)
    nearest = translate.nearest_model(TORCHVISION, fused)
    assert nearest is not None
    assert "EfficientNetV2" in nearest[1][0]
    mobile = golden.listing("timm/efficientnet_b0") | {"blocks.1.0.conv_exp.weight": (96, 16, 3, 3)}
    assert translate.identify(TIMM, mobile) == []


def test_a_larger_model_than_b7_is_refused_with_b7() -> None:
    b8 = {"conv_stem.weight": (72, 3, 3, 3), "blocks.0.0.se.conv_reduce.weight": (8, 72, 1, 1)}
    nearest = translate.nearest_model(TIMM, b8)
    assert nearest is not None
    assert nearest[0].backbone == "efficientnet_b7"
    assert "conv_stem.weight is [72, 3, 3, 3], expected [64, 3, 3, 3]" in nearest[1]
