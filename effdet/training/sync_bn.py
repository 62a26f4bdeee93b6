# SPDX-License-Identifier: Apache-2.0
"""Batch norm whose statistics are those of the images of several processes."""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from effdet import distributed
from effdet.errors import UsageError


def synchronize_batch_norm(
    model: nn.Module, processes: int | Literal["all"], device: torch.device
) -> nn.Module:
    """Make the batch norms of ``model`` share their statistics between processes.

    On GPUs they become :class:`torch.nn.SyncBatchNorm`, on CPUs :class:`GroupBatchNorm2d`. Names
    and tensors stay the same objects, so that an optimizer and an average that hold them go on.
    Every process must call this, before the model is wrapped for distributed training and after
    it was copied: a copy of a model with groups of processes cannot be made.

    Args:
        model: changed in place, but for a lone batch norm.
        processes: how many processes of consecutive ranks share statistics, or ``all``.
        device: where the model works.

    Returns:
        The model; unchanged where a process shares with none.

    Raises:
        UsageError: where ``processes`` does not divide the number of processes.
    """
    world = distributed.world_size()
    if processes == "all":
        processes = world
    if world == 1 or processes == 1:
        return model
    if world % processes != 0:
        raise UsageError(
            f"--sync-bn must divide the number of processes, {world}, got {processes}; "
            "give a divisor or `all`"
        )
    group: Any = dist.group.WORLD
    if processes < world:
        group, _ = dist.new_subgroups(processes)
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model, group)
    return _convert(model, group)


def _convert(module: nn.Module, group: Any) -> nn.Module:
    """``module`` with a :class:`GroupBatchNorm2d` in place of every batch norm in it."""
    if isinstance(module, nn.BatchNorm2d):
        return GroupBatchNorm2d(module, group)
    for name, child in module.named_children():
        module.add_module(name, _convert(child, group))
    return module


class GroupBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of a group of processes, for CPUs and gloo.

    :class:`torch.nn.SyncBatchNorm` refuses tensors on the CPU. Processes may have different
    numbers of images, also none. In evaluation mode it is an ordinary batch norm.

    Args:
        like: the batch norm whose settings and tensors to take.
        group: the process group.
    """

    def __init__(self, like: nn.BatchNorm2d, group: Any) -> None:
        super().__init__(
            like.num_features, eps=like.eps, momentum=like.momentum, affine=False, device="meta"
        )
        self.affine, self.track_running_stats = like.affine, like.track_running_stats
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        self.training = like.training
        self.group = group

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[B, C, H, W]``; in training by the statistics of the group."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, var, count = _GroupBatchNorm.apply(
            input, self.weight, self.bias, self.eps, self.group
        )
        self._track(mean, var * (count / (count - 1).clamp(min=1)))
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of the batch (``var`` unbiased)."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(var.to(self.running_var.dtype), weight)


class _GroupBatchNorm(torch.autograd.Function):
    """Normalised input, with mean, biased variance and count ``[1]`` of the group."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = _widened(input)
        mean, var, count = _group_statistics(x, group)
        inverse = (var + eps).rsqrt()
        scale = inverse if weight is None else weight * inverse
        shift = -mean * scale if bias is None else bias - mean * scale
        ctx.save_for_backward(input, weight, mean, inverse, count)
        ctx.group = group
        ctx.mark_non_differentiable(mean, var, count)
        output = torch.addcmul(_over_images(shift), x, _over_images(scale))
        return output.to(input.dtype), mean, var, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        dy = _widened(gradient)
        normalised = (_widened(x) - _over_images(mean)) * _over_images(inverse)
        # Each process has the gradients of its own images; distributed training averages them.
        d_weight, d_bias = (dy * normalised).sum((0, 2, 3)), dy.sum((0, 2, 3))
        sums = torch.stack([d_weight, d_bias])
        dist.all_reduce(sums, group=ctx.group)
        along, constant = (_over_images(row / count) for row in sums)
        scale = inverse if weight is None else weight * inverse
        dx = (dy - constant - normalised * along) * _over_images(scale)
        needs = ctx.needs_input_grad
        return (
            dx.to(x.dtype),
            d_weight if needs[1] else None,
            d_bias if needs[2] else None,
            None,
            None,
        )


def _group_statistics(x: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance ``[C]`` and count of values a channel ``[1]`` in the group.

    One message a process: sums and squared distances from its own mean, which lose no digits when
    they are joined, as sums of squares would.
    """
    channels = x.shape[1]
    count = x.new_full((1,), x.numel() // channels)
    total = x.sum((0, 2, 3))
    mean = total / count.clamp(min=1)
    distance = (x - _over_images(mean)).square().sum((0, 2, 3))
    message = torch.cat([total, distance, count])
    messages = [torch.empty_like(message) for _ in range(dist.get_world_size(group))]
    dist.all_gather(messages, message, group=group)
    totals, distances, counts = torch.stack(messages).split([channels, channels, 1], dim=1)
    count = counts.sum(0)
    mean = totals.sum(0) / count
    between = counts * (totals / counts.clamp(min=1) - mean).square()
    return mean, (distances + between).sum(0) / count, count


def _widened(values: Tensor) -> Tensor:
    """16-bit values as float32."""
    return values.float() if values.itemsize < 4 else values


def _over_images(channels: Tensor) -> Tensor:
    """``[C]`` as ``[C, 1, 1]``."""
    return channels[:, None, None]
