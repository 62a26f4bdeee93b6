# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from effdet.config import Optimizer, model_config
from effdet.models import EfficientDet
from effdet.training import build_optimizer


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
