# SPDX-License-Identifier: Apache-2.0
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from effdet.config import model_config
from effdet.models import EfficientDet
from effdet.settings import Optimizer
from effdet.training.optimizer import build_optimizer, step_unless


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_only_kernels_decay(kind: Optimizer) -> None:
    with torch.device("meta"):
        model = EfficientDet(model_config("efficientdet_d0"))
    optimizer = build_optimizer(model, kind=kind, lr=0.1, momentum=0.9, weight_decay=4e-5)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        norm_or_bias = name.endswith(".bias") or ".bn" in name or ".fuse." in name
        assert decay.pop(id(parameter)) == (0.0 if norm_or_bias else 4e-5), name
    assert not decay


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.0)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]


def test_sgd_adds_decay_to_the_gradient_and_is_not_nesterovs() -> None:
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    optimizer = build_optimizer(model, lr=0.1, momentum=0.5, weight_decay=0.2)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    # Kernel: velocity 1.2, weight 0.88; then 0.6 + 1.176. Bias: 1, 0.9; then 0.5 + 1.
    assert_close(model.weight, torch.tensor([[0.88 - 0.1776]]))
    assert_close(model.bias, torch.tensor([0.75]))


def test_adamw_decays_beside_the_gradient() -> None:
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    optimizer = build_optimizer(model, kind="adamw", lr=0.1, momentum=0.8, weight_decay=0.2)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert_close(model.weight, torch.tensor([[0.98 - 0.1]]), rtol=0, atol=1e-6)
    assert_close(model.bias, torch.tensor([0.9]), rtol=0, atol=1e-6)


KINDS: tuple[Optimizer, ...] = ("sgd", "adamw")
NOT_FOUND, FOUND = torch.tensor(0.0), torch.tensor(1.0)


class Scalars(TorchDispatchMode):
    """Counts how often a tensor's value is read on the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).to(dtype)


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def build(model: nn.Module, kind: Optimizer) -> torch.optim.Optimizer:
    return build_optimizer(model, kind=kind, lr=0.1, momentum=0.9, weight_decay=0.01)


def weights_and_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[list[Tensor], dict[Any, Any]]:
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    return weights, copy.deepcopy(optimizer.state_dict()["state"])


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_torchs_optimizer(kind: Optimizer) -> None:
    """Bit for bit, although torch begins without a velocity."""
    ours, theirs = net(), net()
    optimizer = build(ours, kind)
    groups = [{"params": [p for p in theirs.parameters() if p.dim() > 1], "weight_decay": 0.01}]
    groups += [{"params": [p for p in theirs.parameters() if p.dim() <= 1], "weight_decay": 0.0}]
    peer: torch.optim.Optimizer
    if kind == "sgd":
        peer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=True)
    else:
        peer = torch.optim.AdamW(groups, lr=0.1, fused=True)
    for seed in range(3):
        set_gradients(ours, seed)
        set_gradients(theirs, seed)
        step_unless(optimizer, NOT_FOUND)
        peer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        for name, value in peer.state[q].items():
            assert torch.equal(optimizer.state[p][name], value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_first_step_leaves_weights_and_zeros(kind: Optimizer) -> None:
    # Freed memory full of NaN: what an uninitialised velocity would get.
    for parameter in net().parameters():
        torch.full_like(parameter, torch.nan)
    model = net()
    optimizer = build(model, kind)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    set_gradients(model, 0)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(torch.inf)
    step_unless(optimizer, FOUND)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        assert state
        assert all(not value.any() for value in state.values())
    assert not hasattr(optimizer, "found_inf")
    assert not hasattr(optimizer, "grad_scale")


@pytest.mark.parametrize("kind", KINDS)
def test_skipped_steps_change_nothing_that_follows(kind: Optimizer) -> None:
    models = net(), net()
    optimizers = [build(model, kind) for model in models]
    for seed in range(4):
        if seed % 2 == 0:
            set_gradients(models[1], 100 + seed)
            step_unless(optimizers[1], FOUND)
        for model, optimizer in zip(models, optimizers, strict=True):
            set_gradients(model, seed)
            step_unless(optimizer, NOT_FOUND)
    one, other = (weights_and_state(m, o) for m, o in zip(models, optimizers, strict=True))
    assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_step_reads_no_value_on_the_host(kind: Optimizer) -> None:
    model = net()
    optimizer = build(model, kind)
    set_gradients(model, 0)
    with Scalars() as scalars:
        step_unless(optimizer, FOUND)
        step_unless(optimizer, NOT_FOUND)
        assert scalars.count == 0
        NOT_FOUND.item()
    assert scalars.count == 1


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_other_types_take_the_plain_step(kind: Optimizer) -> None:
    model = net(torch.bfloat16)
    optimizer = build(model, kind)
    assert not any(group["fused"] for group in optimizer.param_groups)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    set_gradients(model, 0)
    step_unless(optimizer, FOUND)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    step_unless(optimizer, NOT_FOUND)
    assert not any(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("saved_after", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_optimizer_goes_on_with_the_same_bits(
    kind: Optimizer, saved_after: int, tmp_path: Path
) -> None:
    whole = net()
    optimizer = build(whole, kind)
    for seed in range(4):
        if seed == saved_after:
            torch.save((whole.state_dict(), optimizer.state_dict()), tmp_path / "saved.pt")
        set_gradients(whole, seed)
        step_unless(optimizer, FOUND if seed == 1 else NOT_FOUND)
    weights, state = torch.load(tmp_path / "saved.pt", weights_only=True)
    torch.manual_seed(99)
    resumed = net()
    resumed.load_state_dict(weights)
    second = build(resumed, kind)
    second.load_state_dict(state)
    for seed in range(saved_after, 4):
        set_gradients(resumed, seed)
        step_unless(second, FOUND if seed == 1 else NOT_FOUND)
    assert_close(
        weights_and_state(whole, optimizer), weights_and_state(resumed, second), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_a_plain_optimizer_without_steps_can_be_loaded(kind: Optimizer) -> None:
    """It says fused=False and has no velocity; ours keeps both, so that steps can be skipped."""
    old = net()
    plain: torch.optim.Optimizer
    plain = (
        torch.optim.SGD(build(old, kind).param_groups, lr=0.1, momentum=0.9, foreach=True)
        if kind == "sgd"
        else torch.optim.AdamW(build(old, kind).param_groups, lr=0.1, foreach=True)
    )
    saved = plain.state_dict()
    for group in saved["param_groups"]:
        group["fused"], group["foreach"] = False, True
    model = net()
    optimizer = build(model, kind)
    optimizer.load_state_dict(saved)
    assert all(group["fused"] and not group["foreach"] for group in optimizer.param_groups)
    set_gradients(model, 0)
    step_unless(optimizer, FOUND)
    for parameter in model.parameters():
        assert all(not value.any() for value in optimizer.state[parameter].values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_channels_last_model_takes_the_step_of_its_gradients(kind: Optimizer) -> None:
    """The fused steps go through memory as it lies."""
    model, twin = net().to(memory_format=torch.channels_last), net()
    optimizer, peer = build(model, kind), build(twin, kind)
    for group in peer.param_groups:
        group["fused"], group["foreach"] = False, True
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert p.grad is not None
            q.grad = p.grad.clone(memory_format=torch.contiguous_format)
        step_unless(optimizer, NOT_FOUND)
        peer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(p, q, rtol=1e-5, atol=1e-7)
