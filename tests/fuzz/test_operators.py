# SPDX-License-Identifier: Apache-2.0
"""Generated calls of the CPU kernels against their definitions; operators.py says how."""

import pytest
import torch

from tests.fuzz import operators
from tests.fuzz.operator_case import OPERATORS, compare, exists

SEED = 6
BUILT = all(exists(name) for name in OPERATORS)
needs_kernels = pytest.mark.skipif(not BUILT, reason="the CPU kernels are not built")


def check(cases: int, seed: int, sanitized: bool = False) -> None:
    found = operators.fuzz(cases, seed, sanitized=sanitized)
    print(found)
    assert found["differences"] == []
    assert found["deaths"] == []
    assert sum(found["outcomes"].values()) == sum(found["operators"].values()) == cases
    assert set(found["operators"]) == set(OPERATORS)
    assert found["outcomes"]["compared"] > cases * (0.02 if sanitized else 0.5)
    assert "baseline" in found["instruction_sets"]


@needs_kernels
def test_generated_calls_give_what_the_definitions_give() -> None:
    check(700, SEED)


@needs_kernels
@pytest.mark.slow
def test_100_000_generated_calls_give_what_the_definitions_give() -> None:
    check(100_000, SEED)


@pytest.mark.slow
@pytest.mark.skipif(not any(operators.BUILD.glob("_C.*.so")), reason="needs make sanitize's build")
def test_20_000_generated_calls_give_the_sanitizers_nothing_to_report() -> None:
    check(20_000, SEED, sanitized=True)


def test_every_operator_is_fuzzed() -> None:
    import effdet.ops  # noqa: F401

    ours = {
        name.removeprefix("effdet::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("effdet::")
    }
    assert ours == set(OPERATORS)


@needs_kernels
def test_a_difference_and_a_death_are_told_with_their_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(operators.FAULTS, "99 100")
    found = operators.fuzz(4, SEED, first=98)
    assert [fault["case"] for fault in found["differences"]] == [99]
    assert [(death["case"], death["exit"]) for death in found["deaths"]] == [(100, -11)]
    assert sum(found["operators"].values()) == 2 + 1  # the first process, and what follows


@pytest.mark.parametrize("found", [torch.tensor([1.0, torch.nan]), torch.tensor([1.5, 2.0])])
def test_what_differs_is_noticed(found: torch.Tensor) -> None:
    expected = torch.tensor([1.0, 2.0])
    compare([expected], [expected.clone()], None)
    for tolerance in (None, 1e-5):
        with pytest.raises(AssertionError):
            compare([found], [expected], tolerance)
