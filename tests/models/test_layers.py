# SPDX-License-Identifier: Apache-2.0
import ast
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from effdet.models.layers import (
    Resample,
    SeparableConv2d,
    StridedConv2dSame,
    batch_norm,
    conv2d,
    max_pool_to,
    multiply_adds,
    resize_to,
    same_padding,
    stochastic_depth,
    trainable_parameters,
)
from tests import golden


def arange(height: int, width: int) -> torch.Tensor:
    return torch.arange(float(height * width)).reshape(1, 1, height, width)


@pytest.mark.parametrize("side", [6, 7])
def test_max_pooling_is_the_references(side: int) -> None:
    (line,) = golden.lines(f"maxpool same 3/2 on {side}x{side} arange")
    half = (side + 1) // 2
    assert max_pool_to(arange(side, side), (half, half), "same")[0, 0].tolist() == (
        ast.literal_eval(line)
    )


def test_max_pooling_pads_with_less_than_any_value() -> None:
    pooled = max_pool_to(arange(5, 6) - 1000, (3, 3), "same")
    assert pooled.max() == -1000 + 29
    assert pooled[0, 0, 0].tolist() == [-992, -990, -989]


def test_symmetric_pooling_pads_as_pytorch() -> None:
    x = arange(6, 6)
    assert torch.equal(max_pool_to(x, (3, 3), "symmetric"), F.max_pool2d(x, 3, 2, 1))
    assert max_pool_to(x, (3, 3), "symmetric")[0, 0, 0].tolist() == [7, 9, 11]


def test_an_axis_of_one_pixel_is_kept_while_the_other_is_halved() -> None:
    assert max_pool_to(arange(1, 4), (1, 2), "same").tolist() == [[[[2, 3]]]]


def test_upsampling_is_the_references() -> None:
    (line,) = golden.lines("nearest 3->5")
    expected = [float(n) for n in re.findall(r"\d", line)]
    assert resize_to(arange(3, 1), (5, 1), "same").flatten().tolist() == expected
    assert resize_to(arange(1, 3), (1, 5), "same").flatten().tolist() == expected


def test_a_map_of_the_right_size_is_left_alone() -> None:
    x = arange(3, 4)
    assert resize_to(x, (3, 4), "same") is x


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        (6, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (8, 5, 2, (1, 2)), (9, 5, 2, (2, 2)),
        (7, 3, 1, (1, 1)), (1, 3, 2, (1, 1)), (4, 1, 2, (0, 0)),
    ],
)  # fmt: skip
def test_same_padding_puts_the_odd_zero_behind(
    size: int, kernel: int, stride: int, padding: tuple[int, int]
) -> None:
    assert same_padding(size, kernel, stride) == padding


def test_a_strided_same_convolution_sees_the_pixels_tensorflow_sees() -> None:
    conv = conv2d(1, 1, 3, stride=2)
    assert isinstance(conv, StridedConv2dSame)
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = 1  # picks the top left pixel of each window
    assert conv(arange(4, 4))[0, 0].tolist() == [[0, 2], [8, 10]]  # no zero before an even axis
    assert conv(arange(5, 5))[0, 0].tolist() == [[0, 0, 0], [0, 6, 8], [0, 16, 18]]
    assert conv(arange(4, 5))[0, 0].tolist() == [[0, 1, 3], [0, 11, 13]]
    symmetric = conv2d(1, 1, 3, stride=2, padding="symmetric")
    symmetric.load_state_dict(conv.state_dict())
    assert symmetric(arange(4, 4))[0, 0].tolist() == [[0, 0], [0, 5]]


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (7, 7), (8, 6)])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_strides_halve_upwards(size: tuple[int, int], kernel: int, padding: str) -> None:
    conv = conv2d(2, 2, kernel, stride=2, groups=2, padding=padding)  # type: ignore[arg-type]
    wanted = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    assert conv(torch.zeros(1, 2, *size)).shape[2:] == wanted
    keep = conv2d(2, 2, kernel, padding=padding)  # type: ignore[arg-type]
    assert keep(torch.zeros(1, 2, *size)).shape[2:] == size


def test_batch_norms_are_the_references() -> None:
    norm = batch_norm(4)
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)
    assert norm.weight.tolist() == [1] * 4


def test_a_separable_convolution_has_a_bias_only_at_its_end() -> None:
    conv = SeparableConv2d(4, 6, bias=True)
    assert trainable_parameters(conv) == 9 * 4 + 4 * 6 + 6
    assert trainable_parameters(SeparableConv2d(4, 6, bias=False)) == 9 * 4 + 4 * 6


def test_resampling_has_weights_only_where_the_width_changes() -> None:
    assert trainable_parameters(Resample(8, 8, "same")) == 0
    assert trainable_parameters(Resample(4, 8, "same")) == 4 * 8 + 8 + 2 * 8
    assert trainable_parameters(Resample(4, 8, "symmetric")) == 4 * 8 + 2 * 8
    assert Resample(4, 8, "same")(torch.zeros(1, 4, 7, 5), (4, 3)).shape == (1, 8, 4, 3)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3, 3)
    y = stochastic_depth(x, 0.8, training=True)
    values = y.flatten(1)
    assert (values == values[:, :1]).all()
    assert_close(values[:, 0].unique(), torch.tensor([0.0, 1.25]))
    assert_close(y.mean(), torch.tensor(1.0), rtol=0, atol=0.03)  # five deviations of 0.0079
    assert torch.equal(x, torch.ones_like(x))


def test_stochastic_depth_is_off_when_it_should_be() -> None:
    x = torch.rand(8, 1)
    assert stochastic_depth(x, 0.5, training=False) is x
    assert stochastic_depth(x, 1.0, training=True) is x


def test_multiply_adds_count_each_use_of_a_kernel() -> None:
    conv, linear = conv2d(4, 6, 3, groups=2), nn.Linear(6, 5)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = conv, linear

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.conv(x[..., :2])
            return self.linear(self.conv(x).mean((2, 3)))

    count = 5 * 8 * 6 * 9 * 2 + 5 * 2 * 6 * 9 * 2 + 6 * 5
    assert multiply_adds(Twice(), torch.zeros(1, 4, 5, 8)) == count
    assert not conv._forward_hooks
