# SPDX-License-Identifier: Apache-2.0
import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from effdet.training import ModelEma
from tests.training.conftest import MakeTrainer, two_images


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


def test_names_shapes_strides_and_dtypes_are_those_of_the_model() -> None:
    model = network().to(memory_format=torch.channels_last)
    model.register_buffer("mask", torch.tensor([True, False]))
    averaged = ModelEma(model, 0.9).module.state_dict()
    assert list(averaged) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert averaged[name].shape == tensor.shape
        assert averaged[name].dtype == tensor.dtype
        assert torch.empty_like(averaged[name]).stride() == torch.empty_like(tensor).stride()
        assert torch.equal(averaged[name], tensor)


def test_averages_of_a_dtype_lie_in_one_buffer() -> None:
    tensors = ModelEma(network(), 0.9).module.state_dict().values()
    buffers = {(t.dtype, t.untyped_storage().data_ptr()) for t in tensors}
    assert len(buffers) == 2
    assert all(t.data_ptr() % 64 == 0 for t in tensors)


def test_16_bit_weights_get_a_float32_average_that_keeps_small_steps() -> None:
    model = network().bfloat16()
    ema = ModelEma(model, 0.999)
    ema.updates = 10**6
    fill(ema.module, 1.0)
    fill(model, 2.0)
    ema.update(model)
    weight = ema.module[0].weight
    assert weight.dtype == torch.float32
    assert_close(weight, torch.full((4, 3, 1, 1), 1.001))
    assert model[0].weight.dtype == torch.bfloat16


def test_a_skipped_step_is_not_counted() -> None:
    model = network()
    ema = ModelEma(model, 0.9)
    fill(ema.module, 0.0)
    fill(model, 1.0)
    ema.update(model, torch.ones(()))
    assert ema.updates == 0
    assert not any(t.any() for t in ema.module.state_dict().values())
    ema.update(model, torch.zeros(()))
    assert ema.updates == 1
    assert_close(ema.module[0].bias, torch.full((4,), 0.9))


def test_shared_parameters_are_averaged_once_and_stay_shared() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model[1].weight = model[0].weight
    ema = ModelEma(model, 0.9)
    fill(ema.module, 0.0)
    fill(model, 1.0)
    ema.update(model)
    assert ema.module[0].weight is ema.module[1].weight
    assert_close(ema.module[1].weight, torch.full((2, 2), 0.9))


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_averages_are_the_ones_that_move(assign: bool) -> None:
    model = network()
    ema = ModelEma(model, 0.9)
    fill(model, 1.0)
    zeros = {n: torch.zeros_like(t) for n, t in ema.module.state_dict().items()}
    ema.module.load_state_dict(zeros, assign=assign)
    ema.update(model)
    assert_close(ema.module[0].weight, torch.full((4, 3, 1, 1), 0.9))
    assert_close(ema.module[1].running_mean, torch.full((4,), 0.9))


def test_replaced_tensors_of_the_model_are_followed() -> None:
    model = network()
    ema = ModelEma(model, 0.9)
    ema.update(model)
    fill(ema.module, 0.0)
    model[0].weight = nn.Parameter(torch.ones(4, 3, 1, 1))
    model[1].running_mean = torch.ones(4)
    ema.updates = 0
    ema.update(model)
    assert_close(ema.module[0].weight, torch.full((4, 3, 1, 1), 0.9))
    assert_close(ema.module[1].running_mean, torch.full((4,), 0.9))


def test_a_changed_module_is_laid_out_anew() -> None:
    model = network()
    ema = ModelEma(model, 0.9)
    ema.module.half()
    fill(ema.module, 0.0)
    fill(model, 1.0)
    ema.update(model)
    assert_close(ema.module[0].weight, torch.full((4, 3, 1, 1), 0.9))
    assert ema.module[0].weight.dtype == torch.float32
    clone = copy.deepcopy(ema)
    clone.update(model)
    assert_close(clone.module[0].bias, torch.full((4,), 1 - 0.1 * 2 / 11))
    assert_close(ema.module[0].bias, torch.full((4,), 0.9))
    assert (ema.updates, clone.updates) == (1, 2)


def test_another_memory_format_of_the_module_is_right_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    ema = ModelEma(model, 0.9)
    ema.module.to(memory_format=torch.channels_last)
    expected = 0.1 * model[0].weight
    fill(ema.module, 0.0)
    ema.update(model)
    assert_close(ema.module[0].weight, 0.9 * (expected / 0.1))


def test_two_models_may_take_turns() -> None:
    models = network(), network()
    ema = ModelEma(models[0], 0.0)
    for value, model in enumerate(models):
        fill(model, float(value))
        ema.update(model)
        assert_close(ema.module[0].weight, torch.full((4, 3, 1, 1), float(value)))


def test_another_model_is_refused() -> None:
    ema = ModelEma(network(), 0.9)
    with pytest.raises(ValueError, match="must have 7 parameters and buffers as the average"):
        ema.update(nn.Linear(2, 2))
    other = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    with pytest.raises(ValueError, match=r"averages\[0\] must be \[5, 3, 1, 1\]"):
        ema.update(other)
    assert ema.updates == 0


def test_a_model_on_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values\[0\] must be on the device of updates, cpu, got"):
        ModelEma(network(), 0.9).update(network().to("meta"))


@pytest.mark.parametrize(
    ("number", "error"), [(-1, ValueError), (2**63, ValueError), ("3", TypeError), (0.5, TypeError)]
)
def test_an_impossible_count_is_refused(number: object, error: type[Exception]) -> None:
    ema = ModelEma(network(), 0.9)
    with pytest.raises(error):
        ema.updates = number  # type: ignore[assignment]


def test_a_model_without_tensors_is_counted() -> None:
    ema = ModelEma(nn.ReLU(), 0.9)
    ema.update(nn.ReLU())
    assert ema.updates == 1


def test_saved_averages_are_read_back(tmp_path: Path) -> None:
    ema = ModelEma(network(), 0.9)
    torch.save(ema.module.state_dict(), tmp_path / "ema.pt")
    loaded = torch.load(tmp_path / "ema.pt", weights_only=True)
    assert all(torch.equal(t, loaded[n]) for n, t in ema.module.state_dict().items())


@pytest.mark.gpu
def test_a_moved_module_follows_there() -> None:
    model = network()
    ema = ModelEma(model, 0.9)
    ema.update(model)
    ema.module.cuda()
    fill(ema.module, 0.0)
    fill(model.cuda(), 1.0)
    ema.updates = 0
    torch.cuda.set_sync_debug_mode("error")
    try:
        ema.update(model, torch.zeros((), device="cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close(ema.module[0].weight.cpu(), torch.full((4, 3, 1, 1), 0.9))
    assert ema.updates == 1


@pytest.mark.parametrize("finite", [True, False])
def test_the_average_rests_in_a_step_that_the_scaler_skips(
    finite: bool, make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer()
    trainer.scaler = torch.amp.GradScaler("cpu")
    assert trainer.ema is not None
    if not finite:
        bias = trainer.bare_model.box_head.predict.pointwise.bias
        bias.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    trainer.train_step([two_images()])
    assert (trainer.ema.updates, trainer.step) == (int(finite), 1)
