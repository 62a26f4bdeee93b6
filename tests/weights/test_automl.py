# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
import torch

from effdet.config import MODELS, ClassifierConfig
from effdet.weights import translate
from effdet.weights.sources.automl import CLASSIFIER, CLASSIFIER_BUILT_TWICE, DETECTOR
from tests import golden
from tests.weights.exported import export, in_memory

D0 = MODELS["efficientdet_d0"]


@pytest.mark.parametrize("name", MODELS)
def test_every_variable_of_the_reference_is_used_exactly_once(name: str) -> None:
    shapes = golden.shapes(name.replace("_", "-"))
    config = MODELS[name]
    used = Counter(v for ours in translate.our_shapes(config) for v in DETECTOR.names(config, ours))
    assert set(used) == set(shapes)
    assert set(used.values()) == {1}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_identified_by_its_variables(name: str) -> None:
    """D6 and D7 differ in nothing but image and anchors."""
    shapes = golden.shapes(name.replace("_", "-"))
    assert DETECTOR.recognises(shapes)
    found = [config.name for config in translate.identify(DETECTOR, shapes)]
    twins = ["efficientdet_d6", "efficientdet_d7"]
    assert found == (twins if name in twins else [name])


def test_other_classes_are_counted() -> None:
    shapes = golden.shapes("efficientdet-d0")
    shapes["class_net/class-predict/bias"] = (9 * 7,)
    shapes["class_net/class-predict/pointwise_kernel"] = (1, 1, 64, 9 * 7)
    (config,) = translate.identify(DETECTOR, shapes)
    assert config.num_classes == 7
    shapes["class_net/class-predict/bias"] = (9 * 7 + 1,)
    assert translate.identify(DETECTOR, shapes) == []


def test_a_missing_variable_is_named() -> None:
    tensors = in_memory({"efficientnet-b0/stem/conv2d/kernel": torch.zeros(3, 3, 3, 32)})
    with pytest.raises(KeyError, match="stem/tpu_batch_normalization/gamma"):
        translate.state_dict(DETECTOR, D0, tensors)


@pytest.mark.parametrize(
    "name",
    [
        "global_step",
        "class_net/class-0/bias/Momentum",
        "class_net/class-0/bias/RMSProp",
        "class_net/class-0/bias/RMSProp_1",
        "class_net/class-0/bias/Adam_1",
        "beta1_power",
        "training/beta2_power",
    ],
)
def test_what_optimizers_keep_is_no_weight(name: str) -> None:
    shapes = {**golden.shapes("efficientdet-d0"), name: ()}
    assert translate.faults(DETECTOR, D0, shapes) == []
    assert CLASSIFIER.is_extra(ClassifierConfig(backbone="efficientnet_b0"), name)


@pytest.mark.parametrize("name", ["class_net/class-9/bias", "Momentum/kernel", "my_global_step"])
def test_anything_else_is_unknown(name: str) -> None:
    shapes = {**golden.shapes("efficientdet-d0"), name: ()}
    assert translate.faults(DETECTOR, D0, shapes) == [f"{name} is unknown"]


@pytest.mark.parametrize(
    ("tensor", "variables"),
    [
        ("backbone.stem.conv.weight", ["efficientnet-b0/stem/conv2d/kernel"]),
        # Block 0 has no expansion: its project convolution is the first.
        ("backbone.blocks.0.project.conv.weight", ["efficientnet-b0/blocks_0/conv2d/kernel"]),
        ("backbone.blocks.5.project.conv.weight", ["efficientnet-b0/blocks_5/conv2d_1/kernel"]),
        (
            "backbone.blocks.5.project.bn.running_var",
            ["efficientnet-b0/blocks_5/tpu_batch_normalization_2/moving_variance"],
        ),
        (
            "backbone.blocks.0.depthwise.bn.weight",
            ["efficientnet-b0/blocks_0/tpu_batch_normalization/gamma"],
        ),
        ("backbone.blocks.2.se.expand.bias", ["efficientnet-b0/blocks_2/se/conv2d_1/bias"]),
        ("bifpn.extra_levels.0.conv.weight", ["resample_p6/conv2d/kernel"]),
        (
            "bifpn.cells.0.nodes.5.resamples.0.bn.weight",
            ["fpn_cells/cell_0/fnode5/resample_0_2_10/bn/gamma"],
        ),
        (
            "bifpn.cells.2.nodes.4.fuse.weight",
            [f"fpn_cells/cell_2/fnode4/WSM{i}" for i in ("", "_1", "_2")],
        ),
        (
            "bifpn.cells.1.nodes.3.conv.pointwise.bias",
            ["fpn_cells/cell_1/fnode3/op_after_combine8/conv/bias"],
        ),
        ("class_head.bns.1.4.running_mean", ["class_net/class-1-bn-7/moving_mean"]),
        ("box_head.convs.2.depthwise.weight", ["box_net/box-2/depthwise_kernel"]),
    ],
)
def test_names_are_the_references(tensor: str, variables: list[str]) -> None:
    assert DETECTOR.names(D0, tensor) == variables


def test_counters_have_no_variable() -> None:
    assert DETECTOR.names(D0, "backbone.stem.bn.num_batches_tracked") == []


def test_a_classifier_is_identified_with_its_outputs() -> None:
    shapes = golden.shapes("efficientnet-b0")
    # The graph that was listed had been built twice, which renames its last layer.
    once = {name.replace("head_1", "head"): shape for name, shape in shapes.items()}
    headless = {name: shape for name, shape in shapes.items() if "/head" not in name}
    for source, these, other, classes in (
        (CLASSIFIER_BUILT_TWICE, shapes, CLASSIFIER, 1000),
        (CLASSIFIER, once, CLASSIFIER_BUILT_TWICE, 1000),
        (CLASSIFIER, headless, CLASSIFIER_BUILT_TWICE, None),
    ):
        assert source.recognises(these)
        assert not other.recognises(these)
        assert not DETECTOR.recognises(these)
        (config,) = translate.identify(source, these)
        assert config == ClassifierConfig(backbone="efficientnet_b0", num_classes=classes)
    assert not CLASSIFIER.recognises(golden.shapes("efficientdet-d0"))


def test_lite_classifiers_have_their_own_normalisation() -> None:
    shapes = {
        "efficientnet-lite0/stem/conv2d/kernel": (3, 3, 3, 32),
        "efficientnet-lite0/head/dense/bias": (1000,),
    }
    (config,) = CLASSIFIER.configs(shapes)
    assert (config.backbone, config.mean[0], config.std[0]) == ("efficientnet_lite0", 127, 128)


def test_layouts_become_pytorchs() -> None:
    kernel = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)  # h, w, in, out
    converted = DETECTOR.to_ours(D0, "backbone.stem.conv.weight", [kernel])
    assert converted.shape == (5, 4, 2, 3)
    assert converted[4, 3, 1, 2] == kernel[1, 2, 3, 4]
    depthwise = torch.arange(3 * 3 * 4.0).reshape(3, 3, 4, 1)  # h, w, channels, multiplier
    converted = DETECTOR.to_ours(D0, "class_head.convs.0.depthwise.weight", [depthwise])
    assert converted.shape == (4, 1, 3, 3)
    assert converted[2, 0, 0, 1] == depthwise[0, 1, 2, 0]
    dense = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(DETECTOR.to_ours(D0, "classifier.weight", [dense]), dense.T)
    fusion = DETECTOR.to_ours(
        D0, "bifpn.cells.0.nodes.0.fuse.weight", [torch.tensor(v) for v in (1, 2)]
    )
    assert fusion.tolist() == [1, 2]


def test_box_channels_go_from_yx_to_xy_order() -> None:
    bias = torch.arange(8.0)  # two anchors of ty, tx, th, tw
    converted = DETECTOR.to_ours(D0, "box_head.predict.pointwise.bias", [bias])
    assert converted.tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    kernel = bias.reshape(1, 1, 1, 8).expand(1, 1, 3, 8)
    converted = DETECTOR.to_ours(D0, "box_head.predict.pointwise.weight", [kernel])
    assert converted[:, 0, 0, 0].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    kept = DETECTOR.to_ours(D0, "class_head.predict.pointwise.bias", [bias])
    assert torch.equal(kept, bias)


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdet_lite0"])
def test_the_way_back_is_exact(name: str) -> None:
    config, generator = MODELS[name], torch.Generator().manual_seed(0)
    state = {
        n: torch.zeros((), dtype=torch.int64)
        if n.endswith(translate.COUNTER)
        else torch.randn(shape, generator=generator)
        for n, shape in translate.our_shapes(config).items()
    }
    exported = export(DETECTOR, config, state)
    shapes = golden.shapes(name.replace("_", "-"))
    assert {n: tuple(t.shape) for n, t in exported.items()} == shapes
    back = translate.state_dict(DETECTOR, config, in_memory(exported))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[n], state[n]) for n in state)
