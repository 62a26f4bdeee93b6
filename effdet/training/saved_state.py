# SPDX-License-Identifier: Apache-2.0
"""The state of a run as its file has it: looked through before any of it is put to use.

PyTorch takes an optimizer's state as it comes, and its fused steps trust the shapes.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from effdet.checks import check_number
from effdet.errors import shown

_MOST = 2**40
"""Steps, epochs or images; more than any run does."""

_LONGEST_TEXT = 1000
_MOMENTS = {"momentum_buffer", "exp_avg", "exp_avg_sq"}
_SCALER = {
    "scale": (0, 2.0**100),
    "growth_factor": (1, 1e6),
    "backoff_factor": (0, 1),
    "growth_interval": (0, _MOST),
    "_growth_tracker": (-1, _MOST),
}


def check_counts(state: Mapping[str, Any]) -> None:
    """Refuse a place in the run where no run can be.

    Raises:
        ValueError, KeyError: naming it.
    """
    for name, least in (
        ("epoch", 1), ("images", 0), ("step", 0), ("steps_per_epoch", 1), ("stale", 0),
        ("validations", 0), ("ema_updates", 0),
    ):  # fmt: skip
        check_number(name, state[name], least, _MOST, whole=True)
    check_number("best_ap", state["best_ap"], -math.inf, 1)
    skipped = state["skipped"]
    if not isinstance(skipped, list | tuple) or len(skipped) != 2:
        raise ValueError(f"skipped steps {shown(skipped)}")
    for number in skipped:
        check_number("skipped steps", number, 0, _MOST, whole=True)


def check_history(rows: Any) -> None:
    """Refuse a history of other than figures by their names, a row an epoch.

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(rows, list):
        raise ValueError(f"history {shown(rows)}")
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"history {shown(row)}")
        for name, value in row.items():
            text = value if isinstance(value, str) else ""
            plain = value is None or isinstance(value, bool | int | float | str)
            if not plain or not isinstance(name, str) or len(name + text) > _LONGEST_TEXT:
                raise ValueError(f"history with {shown(name)} {shown(value)}")


def check_scaler(state: Any) -> None:
    """Refuse a loss scale that is none.

    Raises:
        ValueError, KeyError: naming what is wrong.
    """
    for name, (low, high) in _SCALER.items():
        check_number(name, state[name], low, high)


def own_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` with the settings of ``optimizer``, which are those of the run, at its last rate.

    Args:
        optimizer: that the state is for.
        state: as its ``state_dict`` gave it in an earlier start of the run.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: for the state of another optimizer or
            model, or numbers that are not finite.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = [list(group["params"]) for group in state["param_groups"]]
    if groups != [group["params"] for group in own]:
        raise ValueError("an optimizer of other parameters")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = _moments(optimizer)
    for index, entries in state["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters):
            raise ValueError(f"an optimizer with the parameter {shown(index)}")
        _check_moments(entries, parameters[index], names)
    for group, saved in zip(own, state["param_groups"]):
        check_number("lr", saved["lr"], 0, _MOST)
        group["lr"] = saved["lr"]
    return {"state": state["state"], "param_groups": own}


def _moments(optimizer: Optimizer) -> set[str]:
    if isinstance(optimizer, torch.optim.SGD):
        return {"momentum_buffer"}
    return {"step", "exp_avg", "exp_avg_sq"}


def _check_moments(entries: Any, parameter: Tensor, names: Iterable[str]) -> None:
    """Refuse what is not the state of this parameter: its shape, and finite."""
    if not isinstance(entries, dict) or entries.keys() - names:
        raise ValueError(f"an optimizer's state {shown(entries)}")
    for name, value in entries.items():
        if value is None and name == "momentum_buffer":
            continue
        if not isinstance(value, Tensor):
            check_number(name, value, 0, _MOST)
            if name in _MOMENTS:
                raise ValueError(f"an optimizer whose {name} is no tensor")
            continue
        wanted = parameter.shape if name in _MOMENTS else torch.Size([])
        if value.shape != wanted or not value.is_floating_point():
            raise ValueError(
                f"an optimizer whose {name} is {value.dtype} {list(value.shape)}, expected "
                f"numbers {list(wanted)}"
            )
        least = 0.0 if name in ("step", "exp_avg_sq") else -math.inf
        if not (value.isfinite() & (value >= least)).all():
            raise ValueError(f"an optimizer whose {name} has a number that cannot be")
