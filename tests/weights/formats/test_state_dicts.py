# SPDX-License-Identifier: Apache-2.0
"""The weights are found in what programs keep around them."""

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effdet.errors import WeightsError
from effdet.weights.formats.torch_file import open_torch
from effdet.weights.tensor_file import TensorFile


def state(value: float = 1.0, prefix: str = "") -> OrderedDict[str, Tensor]:
    """Tensors as ``nn.Module.state_dict`` gives them."""
    return OrderedDict(
        {
            f"{prefix}backbone.conv.weight": torch.full((2, 3), value),
            f"{prefix}backbone.bn.num_batches_tracked": torch.tensor(5),
        }
    )


ONE = torch.tensor(1.0)
NAMES = ["backbone.conv.weight", "backbone.bn.num_batches_tracked"]


def opened(value: Any, tmp_path: Path) -> TensorFile:
    torch.save(value, tmp_path / "a.pth")
    return open_torch(tmp_path / "a.pth", inert=True)


def first(tensors: Any) -> float:
    return float(tensors["backbone.conv.weight"].read().mean())


@pytest.mark.parametrize(
    ("kept", "averaged"),
    [
        (state(), False),
        ({"state_dict": state()}, False),
        ({"model": state()}, False),
        ({"model_state_dict": state(), "optimizer_state_dict": {"state": {}}}, False),
        ({"net": state(), "best_acc": torch.tensor(70.0)}, False),
        ({"ema": state()}, False),
        ({"state_dict": state(), "state_dict_ema": state(2.0)}, True),
        ({"state_dict": state(), "state_dict_ema": None}, False),
        ({"model": state(), "model_ema": state(2.0, "module.")}, True),
        ({"model": state(), "model_ema": {"n_averaged": ONE, **state(2.0, "module.")}}, True),
        ({"model": state(), "ema": state(2.0)}, True),
        ({"state_dict": state(prefix="module."), "ema_state_dict": state(2.0)}, True),
    ],
)  # fmt: skip
def test_weights_and_their_averages_are_found(kept: Any, averaged: bool, tmp_path: Path) -> None:
    file = opened(kept, tmp_path)
    assert [*file.tensors] == NAMES
    assert first(file.tensors) == 1.0
    assert [*file.averages] == (NAMES if averaged else [])
    assert first(file.best()) == (2.0 if averaged else 1.0)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module.model.", "_orig_mod.module."]
)
def test_the_names_of_wrappers_are_taken_off(prefix: str, tmp_path: Path) -> None:
    assert [*opened(state(prefix=prefix), tmp_path).tensors] == NAMES


def test_what_only_some_names_begin_with_stays(tmp_path: Path) -> None:
    kept = {"model.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert [*opened(kept, tmp_path).tensors] == ["model.weight", "head.weight"]


def test_a_bench_has_tensors_of_its_own(tmp_path: Path) -> None:
    """What ``effdet`` of rwightman trains and predicts with holds the anchors beside the model."""
    kept = {**state(prefix="model."), "anchors.boxes": torch.zeros(5, 4)}
    assert [*opened(kept, tmp_path).tensors] == [*NAMES, "anchors.boxes"]


def test_what_a_training_program_of_timm_saves(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    kept = {
        "epoch": 7,
        "arch": "tf_efficientdet_lite0",
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, output=None),
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": nn.Linear(2, 1).state_dict(),
        "metric": np.float64(0.25),
        "saver": {"checkpoint_files": [("a.pth.tar", 0.25)], "pending": (7, 0.25)},
    }
    file = opened(kept, tmp_path)
    assert [*file.tensors] == [*file.averages] == ["weight", "bias"]
    values = dict(file.values)
    assert values.pop("optimizer")["param_groups"][0]["momentum"] == 0.9
    assert values == {
        "epoch": 7,
        "arch": "tf_efficientdet_lite0",
        "version": 2,
        "args": {"lr": 0.1, "output": None},
        "amp_scaler": {"scale": 65536.0},
        "metric": 0.25,
        "saver": {"checkpoint_files": [["a.pth.tar", 0.25]], "pending": [7, 0.25]},
    }


def test_values_hold_no_tensors(tmp_path: Path) -> None:
    kept = {
        "state_dict": {**state(), "note": "n", "_extra_state": {"t": torch.ones(2), "u": 1}},
        "rng": torch.get_rng_state(),
        "rngs": {"cpu": torch.get_rng_state(), "seed": 3},
        "history": [{"loss": 1.0, "t": torch.ones(1)}, (2, torch.float16)],
        "ranks": [[torch.get_rng_state()], 1],
        "dtype": torch.bfloat16,
    }
    file = opened(kept, tmp_path)
    assert file.values == {
        "rngs": {"seed": 3},
        "history": [{"loss": 1.0}, [2, "torch.float16"]],
        "dtype": "torch.bfloat16",
        "note": "n",
        "_extra_state": {"u": 1},
    }


def test_half_precision_stays_half(tmp_path: Path) -> None:
    kept = {name: t.half() if t.is_floating_point() else t for name, t in state().items()}
    file = opened(kept, tmp_path)
    assert file.tensors[NAMES[0]].dtype == torch.float16
    assert file.tensors[NAMES[0]].read().dtype == torch.float16


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        ({"generator": state(), "discriminator": state()}, "generator and discriminator"),
        ({"state_dict": state(), "teacher": state()}, "state_dict and teacher"),
        ({"ema": state(), "model_ema": state(), "model": state()}, "ema and model_ema"),
        ({"head": state(), "scale.weight": torch.ones(2)}, "head and scale.weight"),
        ({"a\nb": state(), "c": state()}, r"a\nb and c"),
    ],
)
def test_several_sets_of_weights_are_named(kept: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        opened(kept, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'a.pth'}: holds several sets of weights ({named}); save the wanted one alone"
    )


def test_a_loose_tensor_beside_a_state_dict_is_no_second_set(tmp_path: Path) -> None:
    kept = {"state_dict": state(), "class_weights": torch.ones(90)}
    assert opened(kept, tmp_path).tensors.keys() == state().keys()


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({}, "holds no weights (it is empty)"),
        ({"a": 1, "b": "c"}, "holds no weights (a, b)"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "holds no weights (a, b, c, ...)"),
        ({"state_dict": {}}, "holds no weights (state_dict)"),
        ({"steps": torch.tensor(3)}, "holds no weights (steps)"),
        (torch.ones(2), "holds one tensor, expected tensors with names"),
        ([torch.ones(2)], "holds one list, expected tensors with names"),
        (3, "holds one int, expected tensors with names"),
        ({3: torch.ones(2)}, "a tensor has the name 3, expected a text"),
        ({"a\x1b[2J": torch.ones(2)}, r"a tensor has the name 'a\x1b[2J', expected a text"),
    ],
)
def test_a_file_without_weights_says_what_it_holds(kept: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        opened(kept, tmp_path)
    assert str(caught.value) == f"{tmp_path / 'a.pth'}: {message}"


@pytest.mark.parametrize("change", ["name", "shape"])
def test_averages_of_something_else_are_refused(change: str, tmp_path: Path) -> None:
    other = {"head.weight": torch.ones(1)} if change == "name" else {NAMES[0]: torch.ones(3, 2)}
    with pytest.raises(WeightsError, match=r"state_dict_ema holds .*weight"):
        opened({"state_dict": state(), "state_dict_ema": {**state(), **other}}, tmp_path)
