# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest
import torch

from effdet.config import model_config
from effdet.weights import translate
from effdet.weights.source import Shapes
from effdet.weights.sources.rwightman import RWIGHTMAN
from tests import golden

REPEAT_FIRST, LEVEL_FIRST = RWIGHTMAN
D0 = model_config("efficientdet_d0")
D0_SHAPES = golden.listing("rwightman/tf_efficientdet_d0")
LITE0_SHAPES = golden.listing("rwightman/tf_efficientdet_lite0")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("backbone.stem.bn.weight", "backbone.bn1.weight"),
        ("backbone.blocks.0.project.conv.weight", "backbone.blocks.0.0.conv_pw.weight"),
        ("backbone.blocks.0.depthwise.bn.bias", "backbone.blocks.0.0.bn1.bias"),
        ("backbone.blocks.2.expand.bn.bias", "backbone.blocks.1.1.bn1.bias"),
        ("backbone.blocks.15.se.reduce.bias", "backbone.blocks.6.0.se.conv_reduce.bias"),
        ("bifpn.extra_levels.0.conv.bias", "fpn.resample.3.conv.conv.bias"),
        ("bifpn.cells.2.nodes.7.fuse.weight", "fpn.cell.2.fnode.7.combine.edge_weights"),
        (
            "bifpn.cells.0.nodes.5.resamples.0.bn.running_var",
            "fpn.cell.0.fnode.5.combine.resample.2.conv.bn.running_var",
        ),
        (
            "bifpn.cells.1.nodes.3.conv.pointwise.bias",
            "fpn.cell.1.fnode.3.after_combine.conv.conv_pw.bias",
        ),
        ("class_head.convs.2.depthwise.weight", "class_net.conv_rep.2.conv_dw.weight"),
        ("box_head.predict.pointwise.bias", "box_net.predict.conv_pw.bias"),
    ],
)
def test_names_are_those_of_the_files(ours: str, theirs: str) -> None:
    assert REPEAT_FIRST.names(D0, ours) == LEVEL_FIRST.names(D0, ours) == [theirs]


def test_batch_norms_of_the_heads_are_counted_in_two_orders() -> None:
    ours = "class_head.bns.2.4.weight"  # third convolution, coarsest level
    assert REPEAT_FIRST.names(D0, ours) == ["class_net.bn_rep.2.4.bn.weight"]
    assert LEVEL_FIRST.names(D0, ours) == ["class_net.bn_rep.4.2.weight"]


def test_box_channels_go_from_yx_to_xy_order() -> None:
    theirs = torch.arange(8.0)  # two anchors of ty, tx, th, tw
    name = "box_head.predict.pointwise.bias"
    ours = REPEAT_FIRST.to_ours(D0, name, [theirs])
    assert ours.tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert torch.equal(REPEAT_FIRST.from_ours(D0, name, ours)[0], theirs)
    kept = REPEAT_FIRST.to_ours(D0, "class_head.predict.pointwise.bias", [theirs])
    assert torch.equal(kept, theirs)


def test_a_model_of_other_classes_is_recognised() -> None:
    head = {"class_net.predict.conv_pw.weight": (63, 64, 1, 1)}
    shapes = D0_SHAPES | head | {"class_net.predict.conv_pw.bias": (63,)}
    (config,) = translate.identify(REPEAT_FIRST, shapes)
    assert config == model_config("efficientdet_d0", num_classes=7)


def test_fusion_is_read_from_the_file() -> None:
    plain = {n: s for n, s in D0_SHAPES.items() if not n.endswith("edge_weights")}
    (config,) = translate.identify(REPEAT_FIRST, plain)
    assert config == model_config("efficientdet_d0", fusion="sum")


def test_anchors_of_its_training_wrapper_are_left_out() -> None:
    assert translate.identify(REPEAT_FIRST, D0_SHAPES | {"anchors.boxes": (49104, 4)}) == [D0]


def renamed(shapes: Shapes, old: str, new: str) -> Shapes:
    return {name.replace(old, new): shape for name, shape in shapes.items()}


def without(shapes: Shapes, end: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.endswith(end)}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        # efficientdet_q0 to _q2, cspresdext50pan
        (
            lambda: D0_SHAPES | {"fpn.cell.0.fnode.8.after_combine.conv.conv_dw.weight": (64, 1)},
            "fpn.cell.0 has 9 nodes where a BiFPN has 8: QuFPN, PAN or the like",
        ),
        # resdet50, cspresdet50, cspdarkdet53
        (
            lambda: renamed(D0_SHAPES, "backbone.conv_stem", "backbone.stem_conv1.conv"),
            "backbone.stem_conv1.conv.weight is not of an EfficientNet",
        ),
        # efficientdetv2_ds, efficientdet_es and _em
        (
            lambda: renamed(D0_SHAPES, "blocks.1.0.conv_pw.", "blocks.1.0.conv_exp."),
            "backbone.blocks.1.0.conv_exp.weight is of another kind of block",
        ),
        # efficientdetv2_dt, mobiledetv3_large
        (
            lambda: renamed(D0_SHAPES, "blocks.0.0.conv_pw.", "blocks.0.0.conv."),
            "backbone.blocks.0.0.conv.weight is of another kind of block",
        ),
        # mixdet_m and _l
        (
            lambda: renamed(D0_SHAPES, "blocks.1.0.conv_dw.", "blocks.1.0.conv_dw.0."),
            "backbone.blocks.1.0.conv_dw.0.weight is of another kind of block",
        ),
        # any model with separable_conv=False
        (
            lambda: renamed(D0_SHAPES, "after_combine.conv.conv_pw.", "after_combine.conv.conv."),
            "after_combine.conv.conv.weight is a plain convolution",
        ),
        # efficientdet_lite0, mobiledetv2_110d
        (
            lambda: without(LITE0_SHAPES, "conv_pw.bias"),
            "after_combine.conv.conv_pw.bias is missing, which all Lite models",
        ),
    ],
)
def test_models_of_other_architectures_are_refused_in_words(
    make: Callable[[], Shapes], reason: str
) -> None:
    shapes = make()
    assert REPEAT_FIRST.recognises(shapes)
    assert translate.identify(REPEAT_FIRST, shapes) == []
    nearest = translate.nearest_model(REPEAT_FIRST, shapes)
    assert nearest is not None
    (fault,) = nearest[1]
    assert reason in fault


def test_a_wider_pyramid_is_refused_with_the_nearest_model() -> None:
    """As efficientdet_w0 has it."""
    wider = {n: tuple(80 if size == 64 else size for size in s) for n, s in D0_SHAPES.items()}
    assert translate.identify(REPEAT_FIRST, wider) == []
    nearest = translate.nearest_model(REPEAT_FIRST, wider)
    assert nearest is not None
    assert nearest[0] == D0
