# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn
from torch.testing import assert_close

from effdet.training import ModelEma


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def fill(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(value)


def test_an_average_starts_as_an_independent_copy() -> None:
    model = network().train()
    ema = ModelEma(model, 0.99)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    fill(model, 5.0)
    assert all(torch.equal(t, before[n]) for n, t in ema.module.state_dict().items())
    assert not ema.module.training
    assert model.training
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_the_first_updates_move_fast_and_later_ones_by_the_decay() -> None:
    model = network()
    ema = ModelEma(model, 0.5)
    fill(ema.module, 0.0)
    fill(model, 1.0)
    expected = 0.0
    for update in range(12):
        decay = min(0.5, (1 + update) / (10 + update))  # 1/10, 2/11, ... and 1/2 from the ninth
        expected = decay * expected + (1 - decay)
        ema.update(model)
        assert_close(ema.module[0].weight, torch.full((4, 3, 1, 1), expected))
    assert ema.updates == 12


def test_statistics_are_averaged_and_counters_copied() -> None:
    model = network()
    ema = ModelEma(model, 0.999)
    fill(ema.module, 0.0)
    fill(model, 10.0)
    ema.update(model)
    assert_close(ema.module[1].running_mean, torch.full((4,), 9.0))
    assert_close(ema.module[1].running_var, torch.full((4,), 9.0))
    assert_close(ema.module[1].bias, torch.full((4,), 9.0))
    assert ema.module[1].num_batches_tracked.item() == 10


def test_an_update_leaves_the_model_alone() -> None:
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    ModelEma(model, 0.9).update(model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
