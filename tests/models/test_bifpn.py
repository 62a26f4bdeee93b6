# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from effdet.config import Fusion, model_config
from effdet.models.bifpn import BiFPN, BiFPNCell, Node, WeightedSum, bifpn_nodes
from effdet.models.layers import Resample

D0 = model_config("efficientdet_d0")


def test_nodes_of_five_levels_are_the_references() -> None:
    assert bifpn_nodes(3, 7) == [
        Node(6, (3, 4)), Node(5, (2, 5)), Node(4, (1, 6)), Node(3, (0, 7)),
        Node(4, (1, 7, 8)), Node(5, (2, 6, 9)), Node(6, (3, 5, 10)), Node(7, (4, 11)),
    ]  # fmt: skip


def test_nodes_of_six_levels_are_the_references() -> None:
    assert bifpn_nodes(3, 8) == [
        Node(7, (4, 5)), Node(6, (3, 6)), Node(5, (2, 7)), Node(4, (1, 8)), Node(3, (0, 9)),
        Node(4, (1, 9, 10)), Node(5, (2, 8, 11)), Node(6, (3, 7, 12)), Node(7, (4, 6, 13)),
        Node(8, (5, 14)),
    ]  # fmt: skip


def test_a_cell_gives_the_last_node_of_each_level() -> None:
    cell = BiFPNCell([64] * 5, D0)
    assert cell.outputs == [8, 9, 10, 11, 12]


def inputs(count: int) -> list[torch.Tensor]:
    return [torch.full((1, 2, 3, 3), 10.0**i) for i in range(count)]


@pytest.mark.parametrize(
    ("fusion", "weights", "expected"),
    [
        ("sum", None, 111.0),
        ("fastattn", [1.0, 1.0, 1.0], 111 / 3.0001),
        ("fastattn", [2.0, -5.0, 3.0], (2 * 1 + 3 * 100) / 5.0001),
        ("fastattn", [-1.0, -1.0, 0.0], 0.0),
        ("attn", [0.0, 0.0, 0.0], 37.0),
        ("attn", [0.0, 0.6931472, -100.0], 7.0),
    ],
)
def test_fusion_by_hand(fusion: Fusion, weights: list[float] | None, expected: float) -> None:
    fuse = WeightedSum(3, fusion)
    if weights is not None:
        fuse.weight = nn.Parameter(torch.tensor(weights))
    assert_close(fuse(inputs(3)), torch.full((1, 2, 3, 3), expected))


def test_fusion_weights_start_at_one_and_sum_has_none() -> None:
    assert WeightedSum(3, "fastattn").weight.tolist() == [1, 1, 1]
    assert list(WeightedSum(3, "sum").parameters()) == []


@pytest.mark.parametrize("fusion", ["sum", "fastattn", "attn"])
def test_fusion_leaves_its_inputs_alone_and_keeps_their_type(fusion: Fusion) -> None:
    given = [x.bfloat16() for x in inputs(3)]
    fused = WeightedSum(3, fusion)(given)
    assert fused.dtype == torch.bfloat16
    assert [x.flatten()[0].item() for x in given] == [1, 10, 100]


def test_channels_are_adapted_in_the_first_cell_only() -> None:
    bifpn = BiFPN([40, 112, 320], D0)
    adapting = {
        name
        for name, module in bifpn.named_modules()
        if isinstance(module, Resample) and not isinstance(module.conv, nn.Identity)
    }
    assert adapting == {
        "extra_levels.0",
        "cells.0.nodes.1.resamples.0", "cells.0.nodes.2.resamples.0",
        "cells.0.nodes.3.resamples.0", "cells.0.nodes.4.resamples.0",
        "cells.0.nodes.5.resamples.0",
    }  # fmt: skip


def test_the_coarser_levels_are_pooled_from_the_finer() -> None:
    bifpn = BiFPN([40, 112, 320], D0).eval()
    sizes = [(20, 28), (10, 14), (5, 7)]
    features = [torch.randn(1, c, *size) for c, size in zip((40, 112, 320), sizes)]
    with torch.no_grad():
        pyramid = bifpn(features)
    assert [tuple(x.shape[1:]) for x in pyramid] == [
        (64, 20, 28), (64, 10, 14), (64, 5, 7), (64, 3, 4), (64, 2, 2),
    ]  # fmt: skip


def test_information_flows_from_every_level_to_every_level() -> None:
    bifpn = BiFPN([40, 112, 320], D0).eval()
    features = [
        torch.randn(1, c, s, s, requires_grad=True) for c, s in ((40, 16), (112, 8), (320, 4))
    ]
    for level in bifpn(features):
        for gradient in torch.autograd.grad(level.abs().sum(), features, retain_graph=True):
            assert gradient.any()
