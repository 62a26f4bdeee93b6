# SPDX-License-Identifier: Apache-2.0
import functools
from collections import Counter

import pytest
import torch

from effdet.config import MODELS
from effdet.models import EfficientDet, EfficientNetClassifier
from effdet.weights import automl
from tests import golden


@functools.cache
def ours(name: str) -> dict[str, torch.Tensor]:
    """Our tensors of a model, without values and counters."""
    with torch.device("meta"):
        state = EfficientDet(MODELS[name]).state_dict()
    return {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", MODELS)
def test_every_variable_of_the_reference_is_used_exactly_once(name: str) -> None:
    shapes = golden.shapes(name.replace("_", "-"))
    used = Counter(v for tensor in ours(name) for v in automl.variables(MODELS[name], tensor))
    assert set(used) == set(shapes)
    assert set(used.values()) == {1}


@pytest.mark.parametrize("name", MODELS)
def test_every_variable_fits_its_tensor(name: str) -> None:
    shapes = golden.shapes(name.replace("_", "-"))
    arrays = {variable: torch.empty(shape, device="meta") for variable, shape in shapes.items()}
    tensors = ours(name)
    state = automl.state_dict(MODELS[name], tensors, arrays)
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in tensors.items()}


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(KeyError, match="class-predict/bias"):
        automl.state_dict(MODELS["efficientdet_d0"], ["class_head.predict.pointwise.bias"], {})


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
    assert automl.variables(MODELS["efficientdet_d0"], tensor) == variables


def test_the_classifiers_head_has_its_variables_too() -> None:
    with torch.device("meta"):
        names = EfficientNetClassifier("efficientnet_b0").state_dict()
    used = {
        automl.classifier_variable("efficientnet_b0", name)
        for name in names
        if not name.endswith("num_batches_tracked")
    }
    # The graph that was listed had been built twice, which renames its last layer.
    assert used == {name.replace("head_1", "head") for name in golden.shapes("efficientnet-b0")}


def test_layouts_become_pytorchs() -> None:
    kernel = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)  # h, w, in, out
    converted = automl.to_ours("backbone.stem.conv.weight", [kernel])
    assert converted.shape == (5, 4, 2, 3)
    assert converted[4, 3, 1, 2] == kernel[1, 2, 3, 4]
    depthwise = torch.arange(3 * 3 * 4.0).reshape(3, 3, 4, 1)  # h, w, channels, multiplier
    converted = automl.to_ours("class_head.convs.0.depthwise.weight", [depthwise])
    assert converted.shape == (4, 1, 3, 3)
    assert converted[2, 0, 0, 1] == depthwise[0, 1, 2, 0]
    dense = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(automl.to_ours("classifier.weight", [dense]), dense.T)
    fusion = automl.to_ours("bifpn.cells.0.nodes.0.fuse.weight", [torch.tensor(v) for v in (1, 2)])
    assert fusion.tolist() == [1, 2]


def test_box_channels_go_from_yx_to_xy_order() -> None:
    bias = torch.arange(8.0)  # two anchors of ty, tx, th, tw
    converted = automl.to_ours("box_head.predict.pointwise.bias", [bias])
    assert converted.tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    kernel = bias.reshape(1, 1, 1, 8).expand(1, 1, 3, 8)
    converted = automl.to_ours("box_head.predict.pointwise.weight", [kernel])
    assert converted[:, 0, 0, 0].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    kept = automl.to_ours("class_head.predict.pointwise.bias", [bias])
    assert torch.equal(kept, bias)
