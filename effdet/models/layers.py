# SPDX-License-Identifier: Apache-2.0
"""Convolutions, pooling and normalisation with TensorFlow's SAME or PyTorch's symmetric padding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet.config import BN_EPS, Padding

BN_MOMENTUM = 0.01
"""PyTorch's momentum for TensorFlow's 0.99."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of ``size`` so that the output has ``ceil(size / stride)``.

    TensorFlow's SAME rule: the odd one goes behind.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class StridedConv2dSame(nn.Conv2d):
    """A convolution whose padding depends on the input size, as TensorFlow's SAME."""

    def forward(self, input: Tensor) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, ceil(H / stride), ceil(W / stride)]``."""
        height, width = input.shape[-2:]
        top, bottom = same_padding(height, self.kernel_size[0], self.stride[0])
        left, right = same_padding(width, self.kernel_size[1], self.stride[1])
        if top == bottom and left == right:
            return F.conv2d(input, self.weight, self.bias, self.stride, (top, left), 1, self.groups)
        return super().forward(F.pad(input, (left, right, top, bottom)))


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: Padding = "same",
) -> nn.Conv2d:
    """A convolution that keeps the size (stride 1) or halves it upwards (stride 2)."""
    if stride == 1 or padding == "symmetric":
        return nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias
        )
    return StridedConv2dSame(in_channels, out_channels, kernel, stride, groups=groups, bias=bias)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the reference's epsilon and momentum."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def activation(lite: bool) -> nn.Module:
    """ReLU6 for Lite models, SiLU (swish) for the others."""
    return nn.ReLU6(inplace=True) if lite else nn.SiLU()


class SeparableConv2d(nn.Module):
    """A 3x3 depthwise convolution followed by a 1x1 convolution (bias on the latter only)."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__()
        self.depthwise = conv2d(in_channels, in_channels, 3, groups=in_channels)
        self.pointwise = conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H, W]``."""
        return self.pointwise(self.depthwise(x))


def stochastic_depth(x: Tensor, survival_prob: float, training: bool) -> Tensor:
    """Drop whole samples of ``[B, ...]`` in training and scale up the rest (arXiv:1603.09382)."""
    if not training or survival_prob == 1.0:
        return x
    keep = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(survival_prob)
    return x * keep.div_(survival_prob)


def max_pool_to(x: Tensor, size: tuple[int, int], padding: Padding) -> Tensor:
    """Max-pool ``[B, C, H, W]`` to ``size``, each axis halved upwards or kept.

    The window is one larger than the stride. SAME pads with minus infinity, the odd one behind.
    """
    stride = tuple((have - 1) // want + 1 for have, want in zip(x.shape[-2:], size, strict=True))
    kernel = tuple(s + 1 if s > 1 else 1 for s in stride)
    if padding == "symmetric":
        return F.max_pool2d(x, kernel, stride, tuple(k // 2 for k in kernel))
    before = tuple(
        same_padding(have, k, s)[0] for have, k, s in zip(x.shape[-2:], kernel, stride, strict=True)
    )
    # ceil_mode adds the padding behind, where SAME has one more than before.
    return F.max_pool2d(x, kernel, stride, before, ceil_mode=True)


def resize_to(x: Tensor, size: tuple[int, int], padding: Padding) -> Tensor:
    """Bring ``[B, C, H, W]`` to ``size``: max-pooling downwards, nearest neighbour upwards."""
    height, width = x.shape[-2:]
    if (height, width) == size:
        return x
    if height >= size[0] and width >= size[1]:
        return max_pool_to(x, size, padding)
    return F.interpolate(x, size=size, mode="nearest")


class Resample(nn.Module):
    """Bring a feature map to the width (1x1 convolution, batch norm) and size of a level."""

    def __init__(self, in_channels: int, out_channels: int, padding: Padding) -> None:
        super().__init__()
        self.padding = padding
        self.conv: nn.Module = nn.Identity()
        self.bn: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.conv = conv2d(in_channels, out_channels, 1, bias=padding == "same")
            self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``[B, in, h, w]`` to ``[B, out, *size]``."""
        return resize_to(self.bn(self.conv(x)), size, self.padding)


def init_normal_fan_out(conv: nn.Conv2d) -> None:
    """He-style normal weights by output fan, zero bias: EfficientNet's initialisation."""
    fan_out = conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels // conv.groups
    if not conv.weight.is_meta:  # there it does nothing but load PyTorch's compiler, for seconds
        nn.init.normal_(conv.weight, std=(2.0 / fan_out) ** 0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_glorot_uniform(conv: nn.Conv2d) -> None:
    """Keras' default: uniform weights, zero bias; depthwise fan_in counts all channels."""
    area = conv.kernel_size[0] * conv.kernel_size[1]
    fan_in, fan_out = area * conv.in_channels, area * conv.out_channels // conv.groups
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    nn.init.uniform_(conv.weight, -limit, limit)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_variance_scaling(conv: nn.Conv2d) -> None:
    """Truncated normal weights with variance 1 / fan_in, zero bias: the heads' initialisation."""
    fan_in = conv.kernel_size[0] * conv.kernel_size[1] * conv.in_channels
    # A unit normal cut at two deviations has a deviation of 0.8796.
    std = (1.0 / fan_in) ** 0.5 / 0.87962566103423978
    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """All convolutions in ``module``."""
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def trainable_parameters(module: nn.Module) -> int:
    """Number of trainable values in ``module`` (batch-norm statistics are not among them)."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def multiply_adds(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of the convolutions and linear layers in one call of ``module``.

    Runs the module once; on the meta device that costs nothing.
    """
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return total
