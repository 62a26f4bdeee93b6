# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn

from effdet.training.statistics import RunningStatistics


def network() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(5)).train()


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}


def test_names_values_and_tensors_stay() -> None:
    model = network()
    model[0].running_mean.fill_(7.0)
    tensors, before = dict(model.named_buffers()), values(model)
    RunningStatistics(model)
    assert all(dict(model.named_buffers())[n] is tensors[n] for n in tensors)
    assert all(torch.equal(before[n], value) for n, value in values(model).items())


def test_what_a_skipped_forward_pass_did_is_taken_back() -> None:
    model = network()
    statistics = RunningStatistics(model)
    before = values(model)
    statistics.keep()
    model[0](torch.full((2, 3, 4, 4), float("inf")))
    assert not model[0].running_var.isfinite().all()
    statistics.take_back(torch.tensor(True))
    assert all(torch.equal(before[n], value) for n, value in values(model).items())


def test_what_another_forward_pass_did_stays() -> None:
    model = network()
    statistics = RunningStatistics(model)
    statistics.keep()
    model[0](torch.ones(2, 3, 4, 4))
    moved = values(model)
    statistics.take_back(torch.tensor(False))
    assert model[0].running_mean[0] != 0
    assert all(torch.equal(moved[n], value) for n, value in values(model).items())


def test_loaded_statistics_are_the_ones_that_are_kept() -> None:
    model, other = network(), network()
    statistics = RunningStatistics(model)
    other[0].running_mean.fill_(3.0)
    model.load_state_dict(other.state_dict())
    statistics.keep()
    model[0](torch.full((2, 3, 4, 4), float("nan")))
    statistics.take_back(torch.tensor(True))
    assert model[0].running_mean.tolist() == [3.0] * 3


def test_a_model_without_any_is_fine() -> None:
    statistics = RunningStatistics(nn.Conv2d(1, 1, 1))
    statistics.keep()
    statistics.take_back(torch.tensor(True))
