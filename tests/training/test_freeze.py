# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from torch import nn

from effdet.config import model_config
from effdet.errors import UsageError
from effdet.models import EfficientDet, build_model
from effdet.settings import Optimizer, TrainConfig
from effdet.training import (
    Freezing,
    Meter,
    Trainer,
    build_optimizer,
    freeze,
    plan_freezing,
    rate_factors,
    train_one_epoch,
)
from effdet.training.freeze import parameters_of, set_train_mode
from tests.tiny import tiny_model
from tests.training.conftest import MakeTrainer, two_images


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    with tiny_model():
        return build_model(model_config("tiny", num_classes=2))


def names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


# ---- What names mean


@pytest.mark.parametrize("part", ["backbone", "bifpn", "class_head", "box_head"])
def test_the_name_of_a_part_is_all_in_it(model: EfficientDet, part: str) -> None:
    (found,) = parameters_of(model, [part], "--freeze")
    assert found == {n for n in names(model) if n.startswith(f"{part}.")} != set()


def test_globs_are_over_modules_and_parameters(model: EfficientDet) -> None:
    patterns = ["backbone.blocks.[0-2].*", "backbone.stem", "*.bn", "*.bias", "*.blocks.?.expand"]
    blocks, stem, norms, biases, expand = parameters_of(model, patterns, "--freeze")
    assert {n.split(".")[2] for n in blocks} == {"0", "1", "2"}
    assert blocks == {
        n for n in names(model) if n.startswith(tuple(f"backbone.blocks.{i}." for i in range(3)))
    }
    assert stem == {f"backbone.stem.{n}" for n in ("conv.weight", "bn.weight", "bn.bias")}
    assert norms == {n for n in names(model) if ".bn." in n}
    assert biases == {n for n in names(model) if n.endswith(".bias")}
    assert expand == {n for n in names(model) if ".expand." in n and ".se." not in n}


@pytest.mark.parametrize(
    ("pattern", "nearest"), [("bakbone", "backbone"), ("class_haed", "class_head"), ("b*z", "")]
)
def test_a_name_that_nothing_has_is_told_with_the_nearest(
    model: EfficientDet, pattern: str, nearest: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plan_freezing(model, ["backbone", pattern])
    assert f"--freeze: nothing in the model is called {pattern}" in str(caught.value)
    assert nearest in str(caught.value)


def test_a_part_of_a_name_is_no_name(model: EfficientDet) -> None:
    with pytest.raises(UsageError, match="nothing in the model is called back"):
        plan_freezing(model, ["back"])


# ---- The plan


def test_the_first_epochs_freeze_more(model: EfficientDet) -> None:
    plan = plan_freezing(
        model, ["backbone.stem"], first_epochs=2, first_patterns=("backbone", "bifpn")
    )
    assert plan.in_epoch(3) == {f"backbone.stem.{n}" for n in names(model.backbone.stem)}
    assert plan.in_epoch(1) == plan.in_epoch(2)
    assert names(model) - plan.in_epoch(2) == {n for n in names(model) if "_head." in n}


def test_without_options_nothing_is_frozen(model: EfficientDet) -> None:
    assert plan_freezing(model, []) == Freezing()
    assert Freezing().in_epoch(1) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": ["*"]}, "--freeze leaves nothing to learn"),
        (
            {"patterns": ["*_head"], "first_epochs": 1, "first_patterns": ["backbone", "bifpn"]},
            "--freeze-epochs leaves nothing to learn",
        ),
        (
            {"patterns": ["backbone"], "first_epochs": 1, "first_patterns": ["backbone"]},
            "--freeze-epochs does nothing: --freeze holds backbone anyway",
        ),
        (
            {"patterns": ["class_head"], "random": {"class_head.predict.pointwise.bias"}},
            "--freeze would keep class_head.predict.pointwise.bias as it is, which holds random",
        ),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(
    model: EfficientDet, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_freezing(model, options.pop("patterns"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_epochs": 1}, "--freeze-epochs needs --weights or --backbone-weights"),
        ({"freeze_epochs": 3, "epochs": 3, "weights": "a"}, "freeze_epochs must be below the 3"),
        ({"freeze_epochs": -1}, "freeze_epochs must be finite and at least 0"),
        ({"unfreeze_lr_factor": 0.2}, "--unfreeze-lr-factor does nothing without --freeze-epochs"),
        ({"unfreeze_lr_factor": 0.0}, "unfreeze_lr_factor must be finite and above 0"),
        ({"partial_weights": True}, "--partial-weights is about --weights"),
        ({"lr_factors": ("backbone",)}, "as backbone=0.1, got 'backbone'"),
        ({"lr_factors": ("backbone=0",)}, "what shall not learn goes to --freeze"),
        ({"lr_factors": ("backbone=inf",)}, "got 'backbone=inf'"),
        ({"lr_factors": ("=1",)}, "got '=1'"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be above 0, got 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


def test_the_first_epochs_hold_what_the_weights_have_below_the_heads() -> None:
    detector = TrainConfig(weights="a.pt", freeze_epochs=1)
    assert detector.frozen_at_first == ("backbone", "bifpn")
    assert TrainConfig(backbone_weights="a.pth", freeze_epochs=1).frozen_at_first == ("backbone",)
    assert TrainConfig(weights="a.pt").frozen_at_first == ()


# ---- Rates


def test_later_factors_win_and_the_rest_has_the_full_rate(model: EfficientDet) -> None:
    factors = rate_factors(model, [("backbone", 0.1), ("backbone.stem", 0.01), ("*.bias", 2.0)])
    assert factors["backbone.stem.conv.weight"] == 0.01
    assert factors["backbone.stem.bn.bias"] == 2.0
    assert factors["backbone.blocks.0.depthwise.conv.weight"] == 0.1
    assert "bifpn.cells.0.nodes.0.conv.depthwise.weight" not in factors


def test_a_factor_that_changes_nothing_is_refused(model: EfficientDet) -> None:
    with pytest.raises(UsageError, match=r"--lr-factors backbone.stem=0.5 does nothing"):
        rate_factors(model, [("backbone.stem", 0.5), ("backbone", 0.1)])
    with pytest.raises(UsageError, match="nothing in the model is called neck"):
        rate_factors(model, [("neck", 0.5)])
    frozen = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    freeze(frozen, ["0.weight", "0.bias"])
    with pytest.raises(UsageError, match=r"--lr-factors 0=0.5 does nothing: all of it is frozen"):
        rate_factors(frozen, [("0", 0.5)])


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_factor_is_on_the_rate_of_every_step(make_trainer: MakeTrainer, kind: Optimizer) -> None:
    trainer = make_trainer(optimizer=kind, ema=False)
    model = trainer.bare_model
    slow = {n: 0.25 for n in names(model) if n.startswith("box_head.")}
    trainer.optimizer = build_optimizer(
        model, kind=kind, lr=0.02, momentum=0.9, weight_decay=0.1, factors=slow
    )
    trainer.step = 500  # half the rate
    trainer.train_step([two_images()])
    rates = {id(p): g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.0025 if name in slow else 0.01), name
    again = build_optimizer(model, kind=kind, lr=0.02, momentum=0.9, weight_decay=0.1, factors=slow)
    again.load_state_dict(trainer.optimizer.state_dict())
    assert [g["lr_factor"] for g in again.param_groups] == [1.0, 1.0, 0.25, 0.25]


# ---- Modes


def test_what_does_not_learn_is_in_evaluation_mode(model: EfficientDet) -> None:
    freeze(model, parameters_of(model, ["backbone", "class_head.bns", "box_head.*.bias"], "")[0])
    set_train_mode(model)
    assert model.training
    assert not any(module.training for module in model.backbone.modules())
    freeze(model, parameters_of(model, ["*.bn.weight"], "")[0])
    set_train_mode(model)  # a norm half of which learns is no frozen one
    assert all(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    freeze(model, [])
    set_train_mode(model, freeze_bn=True)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)


# ---- Steps


def frozen_state(trainer: Trainer, part: str) -> dict[str, torch.Tensor]:
    """Weights and statistics of a part, of the model and its average."""
    assert trainer.ema is not None
    models = {"raw": trainer.bare_model, "ema": trainer.ema.module}
    return {
        f"{kind} {name}": tensor.clone()
        for kind, model in models.items()
        for name, tensor in model.state_dict().items()
        if name.startswith(part)
    }


def train(trainer: Trainer, steps: int) -> None:
    train_one_epoch(
        trainer, [two_images()] * steps, Meter(), log_every=100, report=lambda step, values: None
    )


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_frozen_part_stays_bit_by_bit_and_the_rest_learns(
    make_trainer: MakeTrainer, kind: Optimizer
) -> None:
    trainer = make_trainer(optimizer=kind)
    backbone = [f"backbone.{n}" for n in names(trainer.bare_model.backbone)]
    assert trainer.freeze(backbone)
    assert not trainer.freeze(backbone)
    before, head = frozen_state(trainer, "backbone"), frozen_state(trainer, "bifpn")
    train(trainer, 3)
    after = frozen_state(trainer, "backbone")
    for name, value in before.items():
        assert value.numpy().tobytes() == after[name].numpy().tobytes(), name
        assert torch.equal(after[name], before["raw " + name.split()[1]])
    learnt = frozen_state(trainer, "bifpn")
    assert any(not torch.equal(learnt[n], head[n]) for n in head if "running" in n)
    for name, parameter in trainer.bare_model.named_parameters():
        frozen = name in backbone
        assert (parameter.grad is None) == frozen, name
        assert (not trainer.optimizer.state.get(parameter)) == frozen, name


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_what_learns_all_along_keeps_its_optimizer_state(
    make_trainer: MakeTrainer, kind: Optimizer
) -> None:
    trainer = make_trainer(optimizer=kind)
    model = trainer.bare_model
    trainer.freeze([f"backbone.{n}" for n in names(model.backbone)])
    train(trainer, 2)
    state = trainer.optimizer.state
    head, stem = model.class_head.predict.pointwise.weight, model.backbone.stem.conv.weight
    before = {name: value.clone() for name, value in state[head].items()}
    assert trainer.freeze([])
    assert all(torch.equal(state[head][name], value) for name, value in before.items())
    train(trainer, 1)
    assert stem.grad is not None
    if kind == "adamw":
        assert (state[head]["step"], state[stem]["step"]) == (3, 1)
    else:
        assert state[stem]["momentum_buffer"].any()
    assert model.backbone.stem.bn.training


def test_a_frozen_run_has_the_gradients_of_a_free_one_for_the_rest(
    make_trainer: MakeTrainer,
) -> None:
    """With statistics that stay, to freeze a part changes nothing for the others."""
    gradients = []
    for frozen in ((), ("backbone", "bifpn")):
        trainer = make_trainer(freeze_bn=True, ema=False)
        found = parameters_of(trainer.bare_model, frozen, "")
        trainer.freeze(frozenset[str]().union(*found))
        trainer.set_train_mode()
        trainer.backward([two_images()])
        gradients.append(trainer.bare_model.class_head.predict.pointwise.weight.grad)
    assert gradients[0] is not None
    assert torch.equal(gradients[0], gradients[1])
