# SPDX-License-Identifier: Apache-2.0
"""One generated call of an operator, compared with the operator's definition in PyTorch."""

import copy
import importlib
import importlib.util
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.draw import Draw
from tests.fuzz.operator_table import OPERATORS, Operator

SPOIL_SHARE = 0.2
PUBLIC_SHARE = 0.2
LARGEST_TERM = 1e6


def run_case(name: str, number: int, seed: int, counts: Counter[str], every: int = 1) -> None:
    """Draw and call; raises AssertionError where the result is not that of the definition.

    Args:
        name: of the operator.
        number: of the case; the same number and seed are the same arguments.
        seed: of all cases.
        counts: what is counted up: "compared", "called" without a definition that must give the
            same, "refused".
        every: cases of which one is compared.
    """
    operator, draw = OPERATORS[name], Draw(f"{seed} {name} {number}")
    arguments = operator.draw(draw)
    torch.set_num_threads(draw.choice((1, 1, 1, 2, 3)))
    is_spoilt, is_public = draw.chance(SPOIL_SHARE), draw.chance(PUBLIC_SHARE)
    if is_spoilt:
        at = draw.randrange(len(arguments))
        arguments[at] = draw.spoilt(arguments[at])
    compared = draw.comparable and not is_spoilt and not is_public and number % every == 0
    given = copy.deepcopy(arguments) if compared else None
    call = operator.public if is_public else getattr(torch.ops.effdet, name)
    try:
        result = call(*arguments)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError) as error:
        if not is_spoilt and not draw.refusable:
            raise AssertionError("right arguments were refused") from error
        counts["refused"] += 1
        return
    if given is not None:
        compare((result, arguments), (definition(operator)(*given), given), operator.tolerance)
    counts["called" if given is None else "compared"] += 1


def definition(operator: Operator) -> Any:
    """The operator in plain PyTorch."""
    return importlib.import_module(f"effdet.ops.{operator.module}").reference


def compare(found: Any, expected: Any, tolerance: float | None) -> None:
    """Assert equality of all tensors in two nested sequences."""
    if isinstance(found, Tensor):
        if tolerance is None or not found.is_floating_point():
            assert torch.equal(found.nan_to_num(), expected.nan_to_num())
            assert torch.equal(found.isnan(), expected.isnan())
            return
        if found.dtype in (torch.float16, torch.bfloat16):
            tolerance = 2e-2
        # What two terms leave of each other has the rounding of the terms, not its own.
        largest = expected.nan_to_num(0, 0, 0).abs().max().item() if expected.numel() else 0.0
        smallest = tolerance * min(max(1.0, largest), LARGEST_TERM)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=smallest, equal_nan=True)
    elif isinstance(found, list | tuple):
        for a, b in zip(found, expected, strict=True):
            compare(a, b, tolerance)


def exists(name: str) -> bool:
    """Whether the operator is there and has a kernel."""
    if importlib.util.find_spec(f"effdet.ops.{OPERATORS[name].module}") is None:
        return False
    importlib.import_module(f"effdet.ops.{OPERATORS[name].module}")
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"effdet::{name}", "CPU")
