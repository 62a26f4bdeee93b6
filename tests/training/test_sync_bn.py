# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from effdet.training.sync_bn import GroupBatchNorm2d, synchronize_batch_norm
from tests.runs import torchrun
from tests.training.sync_bn_processes import CPU, build, images_of, two_steps


def ranks_of(folder: Path, processes: str, *counts: int) -> list[dict[str, Any]]:
    """What each rank of as many processes as ``counts`` found."""
    file = folder / "ranks.pt"
    script = "tests/training/sync_bn_processes.py"
    torchrun(len(counts), script, file, processes, *map(str, counts))
    ranks: list[dict[str, Any]] = torch.load(file, weights_only=True)
    return ranks


def assert_same_as_one(ranks: list[dict[str, Any]], first: int) -> None:
    """Ranks that share statistics are one process with all their images, from ``first`` on.

    In float64 the sums of different order agree to 1e-9.
    """
    counts = [len(rank["outputs"]) for rank in ranks]
    one = two_steps(build(), images_of(first, first + sum(counts)))
    for name in ("outputs", "image_gradients"):
        whole = torch.cat([rank[name] for rank in ranks])
        assert_close(whole, one[name], rtol=1e-9, atol=1e-9 * one[name].abs().max().item())
    for rank in ranks:
        assert_close(rank["buffers"], one["buffers"], rtol=1e-9, atol=1e-9)
    for name, gradient in one["gradients"].items():
        whole = sum(rank["gradients"][name] for rank in ranks)
        assert_close(whole, gradient, rtol=1e-9, atol=1e-9 * gradient.abs().max().item())


def test_two_processes_of_unequal_batches_share_statistics(tmp_path: Path) -> None:
    ranks = ranks_of(tmp_path, "all", 3, 1)
    assert_same_as_one(ranks, 0)
    assert all(rank["channels_last"] for rank in ranks)
    # Under DDP each rank has the mean of the ranks' gradients.
    wrapped = [rank["wrapped"] for rank in ranks]
    for rank in wrapped:
        assert_close(rank["buffers"], ranks[0]["buffers"])
    for name, gradient in wrapped[0]["gradients"].items():
        mean = sum(rank["gradients"][name] for rank in ranks) / 2
        assert_close(gradient, mean, rtol=1e-9, atol=1e-9 * mean.abs().max().item())
    assert [rank["smallest"] for rank in ranks] == [10, 10]
    assert "--sync-bn must divide the number of processes, 2, got 3" in ranks[0]["error"]


def test_four_processes_share_in_groups_of_two(tmp_path: Path) -> None:
    ranks = ranks_of(tmp_path, "2", 2, 1, 4, 0)
    assert_same_as_one(ranks[:2], 0)
    assert_same_as_one(ranks[2:], 3)
    assert not torch.equal(
        ranks[0]["buffers"]["1.running_mean"], ranks[2]["buffers"]["1.running_mean"]
    )


def test_alone_nothing_changes() -> None:
    model = build()
    norm = model[1]
    assert synchronize_batch_norm(model, "all", CPU) is model
    assert synchronize_batch_norm(model, 8, CPU)[1] is norm
    assert type(norm) is nn.BatchNorm2d


@pytest.fixture
def alone_in_a_group(tmp_path: Path) -> Any:
    """A process group of one, in this process."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("momentum", [0.01, None])
def test_a_group_of_one_is_an_ordinary_batch_norm(
    alone_in_a_group: Any, momentum: float | None
) -> None:
    torch.manual_seed(0)
    plain, norm = nn.BatchNorm2d(5, momentum=momentum), nn.BatchNorm2d(5, momentum=momentum)
    grouped = GroupBatchNorm2d(norm, alone_in_a_group)
    for _ in range(3):
        x = torch.randn(4, 5, 3, 2)
        assert_close(grouped(x), plain(x))
    assert_close(grouped.state_dict(), plain.state_dict())
    assert grouped.num_batches_tracked == 3
    assert_close(grouped.eval()(x), plain.eval()(x))


def test_gradients_are_those_of_numerical_differences(alone_in_a_group: Any) -> None:
    torch.manual_seed(0)
    norm = GroupBatchNorm2d(nn.BatchNorm2d(2, dtype=torch.float64), alone_in_a_group)
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))


def test_bfloat16_images_have_float32_statistics(alone_in_a_group: Any) -> None:
    norm = GroupBatchNorm2d(nn.BatchNorm2d(2, momentum=1.0), alone_in_a_group)
    x = (300 + torch.randn(64, 2, 4, 4)).bfloat16().requires_grad_()
    y = norm(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert_close(norm.running_mean, x.detach().float().mean((0, 2, 3)))
