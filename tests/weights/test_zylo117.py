# SPDX-License-Identifier: Apache-2.0
import pytest

from effdet.config import model_config
from effdet.weights import translate
from effdet.weights.sources.zylo117 import ZYLO117
from tests import golden

D0, D7X = model_config("efficientdet_d0"), model_config("efficientdet_d7x")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("backbone.stem.conv.weight", "backbone_net.model._conv_stem.conv.weight"),
        ("backbone.stem.bn.weight", "backbone_net.model._bn0.weight"),
        ("backbone.blocks.3.se.expand.bias", "backbone_net.model._blocks.3._se_expand.conv.bias"),
        ("backbone.blocks.3.project.bn.bias", "backbone_net.model._blocks.3._bn2.bias"),
        ("bifpn.extra_levels.0.conv.bias", "bifpn.0.p5_to_p6.0.conv.bias"),
        ("bifpn.extra_levels.0.bn.bias", "bifpn.0.p5_to_p6.1.bias"),
        ("bifpn.cells.0.nodes.1.resamples.0.conv.weight", "bifpn.0.p5_down_channel.0.conv.weight"),
        ("bifpn.cells.0.nodes.4.resamples.0.bn.weight", "bifpn.0.p4_down_channel_2.1.weight"),
        ("bifpn.cells.2.nodes.0.fuse.weight", "bifpn.2.p6_w1"),
        ("bifpn.cells.2.nodes.7.fuse.weight", "bifpn.2.p7_w2"),
        (
            "bifpn.cells.1.nodes.3.conv.depthwise.weight",
            "bifpn.1.conv3_up.depthwise_conv.conv.weight",
        ),
        ("bifpn.cells.1.nodes.4.bn.weight", "bifpn.1.conv4_down.bn.weight"),
        (
            "class_head.convs.2.pointwise.bias",
            "classifier.conv_list.2.pointwise_conv.conv.bias",
        ),
        ("box_head.bns.2.4.weight", "regressor.bn_list.4.2.weight"),
        ("box_head.predict.depthwise.weight", "regressor.header.depthwise_conv.conv.weight"),
    ],
)
def test_names_are_those_of_the_files(ours: str, theirs: str) -> None:
    assert ZYLO117.names(D0, ours) == [theirs]


def test_d7x_has_a_level_more() -> None:
    assert ZYLO117.names(D7X, "bifpn.cells.0.nodes.0.bn.bias") == ["bifpn.0.conv7_up.bn.bias"]
    assert ZYLO117.names(D7X, "bifpn.cells.0.nodes.9.bn.bias") == ["bifpn.0.conv8_down.bn.bias"]


def test_fusion_weights_that_are_not_used_are_left_out() -> None:
    shapes = golden.listing("zylo117/efficientdet-d8")
    assert "bifpn.7.p7_w2" in shapes
    assert translate.identify(ZYLO117, shapes) == [D7X]
    assert ZYLO117.is_extra(D7X, "bifpn.7.p7_w2")
    assert not ZYLO117.is_extra(D0, "bifpn.2.p7_w2")


def test_a_model_of_other_classes_is_recognised() -> None:
    head = "classifier.header.pointwise_conv.conv."
    shapes = golden.listing("zylo117/efficientdet-d0")
    shapes |= {head + "weight": (27, 64, 1, 1), head + "bias": (27,)}
    assert translate.identify(ZYLO117, shapes) == [model_config("efficientdet_d0", num_classes=3)]
