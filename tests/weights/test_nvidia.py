# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from effdet.config import ClassifierConfig, ModelConfig, model_config
from effdet.weights import translate
from effdet.weights.source import Shapes
from effdet.weights.sources import SOURCES
from effdet.weights.sources.nvidia import NVIDIA
from tests import golden

PADDED, DETECTOR, BACKBONE, CONV, OLD_CONV, LINEAR, OLD_LINEAR = NVIDIA
B0 = ClassifierConfig(backbone="efficientnet_b0", padding="symmetric")
D0_SHAPES = golden.listing("nvidia/efficientdet_d0")
B0_SHAPES = golden.listing("nvidia/efficientnet-b0")


def small(num_classes: int = 90) -> ModelConfig:
    return model_config("efficientdet_d0", num_classes=num_classes)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("backbone.stem.bn.weight", "backbone.input_conv.1.weight"),
        ("backbone.blocks.4.expand.conv.weight", "backbone.mbconv_blocks.4.expand_conv.0.weight"),
        (
            "backbone.blocks.0.se.expand.bias",
            "backbone.mbconv_blocks.0.squeeze_and_excitation.expand.bias",
        ),
        ("class_head.bns.1.3.bias", "class_net.bn_rep.1.3.bn.bias"),
    ],
)
def test_names_are_those_of_the_detectors(ours: str, theirs: str) -> None:
    assert DETECTOR.names(small(), ours) == [theirs]


def test_stages_have_two_names() -> None:
    ours = "backbone.blocks.2.project.conv.weight"
    assert LINEAR.names(B0, ours) == ["layers.1.block1.proj.conv.weight"]
    assert OLD_LINEAR.names(B0, ours) == ["layer2.block1.proj.conv.weight"]


def test_linear_squeeze_becomes_a_convolution() -> None:
    name, value = "backbone.blocks.1.se.reduce.weight", torch.rand(4, 96)
    ours = LINEAR.to_ours(B0, name, [value])
    assert ours.shape == (4, 96, 1, 1)
    assert torch.equal(ours[:, :, 0, 0], value)
    assert torch.equal(LINEAR.from_ours(B0, name, ours)[0], value)
    assert torch.equal(CONV.to_ours(B0, name, [ours]), ours)


def test_rows_of_padded_classes_are_left_out() -> None:
    name = "class_head.predict.pointwise.bias"
    theirs = torch.arange(9 * 96.0)
    ours = PADDED.to_ours(small(), name, [theirs])
    assert ours.shape == (9 * 90,)
    assert ours[:3].tolist() == [0, 1, 2]
    assert ours[90:92].tolist() == [96, 97]  # the second anchor
    back = PADDED.from_ours(small(), name, ours)[0].reshape(9, 96)
    assert torch.equal(back[:, :90], theirs.reshape(9, 96)[:, :90])
    assert back[:, 90:].sigmoid().max() < 1e-8
    weight = PADDED.to_ours(small(), "class_head.predict.pointwise.weight", [torch.ones(864, 2)])
    assert weight.shape == (810, 2)


@pytest.mark.parametrize(("outputs", "source", "classes"), [(96, 0, 90), (88, 1, 88), (90, 1, 90)])
def test_only_96_outputs_are_taken_for_padded(outputs: int, source: int, classes: int) -> None:
    head = "class_net.predict.conv_pw."
    shapes: Shapes = D0_SHAPES | {
        head + "weight": (9 * outputs, 64, 1, 1),
        head + "bias": (9 * outputs,),
    }
    assert [s for s in SOURCES if s.recognises(shapes)] == [NVIDIA[source]]
    (config,) = translate.identify(NVIDIA[source], shapes)
    assert config.num_classes == classes
    assert ("first 90 of 96" in NVIDIA[source].title) == (outputs == 96)


def test_d4_pads_its_backbone_alone_symmetrically() -> None:
    d4 = model_config(
        "efficientdet_d4", padding="same", backbone_padding="symmetric", backbone_bn_eps=1e-3
    )
    shapes = {
        n: tuple(t.shape)
        for name, shape in translate.our_shapes(d4).items()
        for n, t in zip(
            DETECTOR.names(d4, name),
            DETECTOR.from_ours(d4, name, torch.empty(shape, device="meta")),
            strict=True,
        )
    }
    assert translate.identify(DETECTOR, shapes) == [d4]


def test_anchors_of_its_training_wrapper_are_left_out() -> None:
    (config,) = translate.identify(DETECTOR, D0_SHAPES)
    assert translate.identify(DETECTOR, D0_SHAPES | {"anchors.boxes": (49104, 4)}) == [config]


def test_wide_squeeze_and_excitation_is_refused_by_name() -> None:
    name = "layers.1.block0.se.squeeze.weight"
    assert B0_SHAPES[name] == (4, 96)
    wide = B0_SHAPES | {name: (24, 96)}
    assert LINEAR.recognises(wide)
    nearest = translate.nearest_model(LINEAR, wide)
    assert nearest is not None
    assert nearest[1] == [f"{name} is a quarter of the widened channels: WideSE"]


def test_quantised_models_are_refused_by_name() -> None:
    name = "layers.0.block0.depsep.conv._input_quantizer._amax"
    assert translate.faults(LINEAR, B0, B0_SHAPES | {name: ()}) == [
        f"{name} is of a model with fake quantisation"
    ]


def test_a_backbone_without_classifier_may_keep_its_last_convolution() -> None:
    shapes = golden.listing("nvidia/backbone_b0")
    cut = {name: shape for name, shape in shapes.items() if not name.startswith("fc.")}
    (config,) = translate.identify(BACKBONE, cut)
    assert config.num_classes is None
    bare = {name: shape for name, shape in cut.items() if "features_conv" not in name}
    assert translate.identify(BACKBONE, bare) == [config]
