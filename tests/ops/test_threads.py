# SPDX-License-Identifier: Apache-2.0
"""Eight threads that call an operator at once, each on tensors of its own, get the same bits."""

import copy
import threading
from typing import Any

import pytest
import torch

import effdet.ops  # noqa: F401  registers the operators
from tests.fuzz.draw import Draw
from tests.fuzz.operator_case import compare
from tests.fuzz.operator_table import OPERATORS

SEED = 8
THREADS = 8
CASES = 40


def right_arguments(name: str) -> list[list[Any]]:
    """Arguments of cases that need not be refused."""
    found: list[list[Any]] = []
    for number in range(2 * CASES):
        draw = Draw(f"{SEED} {name} {number}")
        arguments = OPERATORS[name].draw(draw)
        if not draw.refusable:
            found.append(arguments)
    return found[:CASES]


def results(name: str, cases: list[list[Any]]) -> list[Any]:
    """What the operator returns and what it makes of its arguments."""
    given = copy.deepcopy(cases)
    return [(getattr(torch.ops.effdet, name)(*arguments), arguments) for arguments in given]


@pytest.mark.parametrize("name", OPERATORS)
def test_eight_threads_at_once_get_the_same_bits(name: str) -> None:
    cases = right_arguments(name)
    expected = results(name, cases)
    found: dict[int, list[Any]] = {}
    barrier = threading.Barrier(THREADS)

    def work(number: int) -> None:
        barrier.wait()
        found[number] = results(name, cases[number:] + cases[:number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == THREADS
    for number, rows in found.items():
        compare(rows, expected[number:] + expected[:number], None)
