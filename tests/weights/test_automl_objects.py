# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
import torch

from effdet.config import MODELS, ModelConfig
from effdet.weights import translate
from effdet.weights.source import Shapes
from effdet.weights.sources.automl import DETECTOR
from effdet.weights.sources.automl_objects import HUB, OBJECTS, AutomlObjects
from tests import golden
from tests.weights.exported import export, in_memory

D0 = MODELS["efficientdet_d0"]
END = "/.ATTRIBUTES/VARIABLE_VALUE"
SOURCES = [OBJECTS, HUB]
sources = pytest.mark.parametrize("source", SOURCES, ids=["objects", "hub"])


def shapes_of(source: AutomlObjects, config: ModelConfig) -> Shapes:
    """What a file would hold: the reference's variables under other names."""
    by_name = golden.shapes(config.name.replace("_", "-"))
    renamed = {
        theirs: by_name[variable]
        for ours in translate.our_shapes(config)
        for theirs, variable in zip(
            source.names(config, ours), DETECTOR.names(config, ours), strict=True
        )
    }
    assert len(renamed) == len(by_name)
    return renamed


@sources
@pytest.mark.parametrize("name", ["d0", "d2", "lite0", "lite3x", "d7x"])
def test_models_are_identified(source: AutomlObjects, name: str) -> None:
    shapes = shapes_of(source, MODELS[f"efficientdet_{name}"])
    assert source.recognises(shapes)
    assert not any(other.recognises(shapes) for other in {DETECTOR, *SOURCES} - {source})
    assert [c.name for c in translate.identify(source, shapes)] == [f"efficientdet_{name}"]


@pytest.mark.parametrize(
    ("tensor", "paths"),
    [
        ("backbone.stem.conv.weight", ["backbone/_stem/_conv_stem/kernel"]),
        ("backbone.stem.bn.running_mean", ["backbone/_stem/_bn/moving_mean"]),
        ("backbone.blocks.0.project.conv.weight", ["backbone/_blocks/0/_project_conv/kernel"]),
        ("backbone.blocks.0.depthwise.bn.weight", ["backbone/_blocks/0/_bn1/gamma"]),
        ("backbone.blocks.3.expand.bn.bias", ["backbone/_blocks/3/_bn0/beta"]),
        ("backbone.blocks.3.project.bn.bias", ["backbone/_blocks/3/_bn2/beta"]),
        (
            "backbone.blocks.3.depthwise.conv.weight",
            ["backbone/_blocks/3/_depthwise_conv/depthwise_kernel"],
        ),
        ("backbone.blocks.2.se.reduce.bias", ["backbone/_blocks/2/_se/_se_reduce/bias"]),
        ("bifpn.extra_levels.0.conv.weight", ["resample_layers/0/conv2d/kernel"]),
        (
            "bifpn.cells.0.nodes.5.resamples.0.bn.weight",
            ["fpn_cells/cells/0/fnodes/5/resample_layers/0/bn/gamma"],
        ),
        (
            "bifpn.cells.2.nodes.4.fuse.weight",
            [f"fpn_cells/cells/2/fnodes/4/WSM{i}" for i in ("", "_1", "_2")],
        ),
        (
            "bifpn.cells.1.nodes.3.conv.pointwise.bias",
            ["fpn_cells/cells/1/fnodes/3/op_after_combine/conv_op/bias"],
        ),
        (
            "bifpn.cells.1.nodes.3.bn.running_var",
            ["fpn_cells/cells/1/fnodes/3/op_after_combine/bn/moving_variance"],
        ),
        ("class_head.bns.1.4.running_mean", ["class_net/bns/1/4/moving_mean"]),
        ("class_head.predict.depthwise.weight", ["class_net/classes/depthwise_kernel"]),
        ("box_head.convs.2.depthwise.weight", ["box_net/conv_ops/2/depthwise_kernel"]),
        ("box_head.predict.pointwise.bias", ["box_net/boxes/bias"]),
    ],
)
def test_names_are_paths_through_the_references_objects(tensor: str, paths: list[str]) -> None:
    assert OBJECTS.names(D0, tensor) == [path + END for path in paths]


@pytest.mark.parametrize(
    ("tensor", "path"),
    [
        ("backbone.stem.conv.weight", "base_model/efficientnet-b0.Sstem.Sconv2d.Skernel:0"),
        ("box_head.bns.0.1.bias", "base_model/box_net.Sbox-0-bn-4.Sbeta:0"),
        ("class_head.predict.pointwise.weight", "classes/pointwise_kernel"),
        ("box_head.predict.pointwise.bias", "boxes/bias"),
    ],
)
def test_a_hub_module_keeps_its_names_and_has_its_last_layers_beside_it(
    tensor: str, path: str
) -> None:
    assert HUB.names(D0, tensor) == [path + END]


@sources
def test_what_optimizers_keep_is_no_weight(source: AutomlObjects) -> None:
    kernel = source.names(D0, "class_head.predict.pointwise.weight")[0].removesuffix(END)
    extra = [
        f"optimizer/iter{END}",
        f"save_counter{END}",
        f"{kernel}/.OPTIMIZER_SLOT/optimizer/momentum{END}",
        f"{kernel}/.OPTIMIZER_SLOT/optimizer/_optimizer/rms{END}",
        f"keras_api/metrics/0/total{END}",
    ]
    shapes = {**shapes_of(source, D0), **dict.fromkeys(extra, ())}
    assert translate.faults(source, D0, shapes) == []
    shapes[f"class_net/other{END}"] = ()
    assert translate.faults(source, D0, shapes) == [f"class_net/other{END} is unknown"]


@sources
def test_other_classes_are_counted(source: AutomlObjects) -> None:
    shapes = dict(shapes_of(source, D0))
    shapes[source.names(D0, "class_head.predict.pointwise.bias")[0]] = (9 * 4,)
    shapes[source.names(D0, "class_head.predict.pointwise.weight")[0]] = (1, 1, 64, 9 * 4)
    assert [c.num_classes for c in translate.identify(source, shapes)] == [4]


@sources
def test_every_name_is_used_once_and_the_way_back_is_exact(source: AutomlObjects) -> None:
    shapes = translate.our_shapes(D0)
    assert set(Counter(n for ours in shapes for n in source.names(D0, ours)).values()) == {1}
    state = {
        name: torch.full(shape, float(k))
        for k, (name, shape) in enumerate(shapes.items())
        if not name.endswith(translate.COUNTER)
    }
    stored = in_memory(export(source, D0, state))
    back = translate.state_dict(source, D0, stored)
    assert all(torch.equal(back[name], state[name]) for name in state)
