# SPDX-License-Identifier: Apache-2.0
"""Our models give what other programs give with the same weights.

The other programs run in an environment of their own; one of them has this toolkit's name:

    python -m venv peers
    peers/bin/pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 effdet==0.4.1
    peers/bin/pip install --no-deps efficientnet-pytorch==0.7.1 efficientnet-lite-pytorch==0.1.0
    EFFDET_PEER_PYTHON=peers/bin/python python -m pytest tests/weights/test_peers.py

benchmarks/weights_parity.py writes the differences down.
"""

import os
from pathlib import Path

import pytest

from tests.weights import peer_program
from tests.weights.peers import CASES, Case, case_input, compare, differences, our_outputs

LIMIT = 1e-4
PYTHON = os.environ.get("EFFDET_PEER_PYTHON")


@pytest.mark.skipif(PYTHON is None, reason="EFFDET_PEER_PYTHON names no environment of peers")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.package}-{case.name}")
def test_converted_weights_give_the_same_outputs(case: Case) -> None:
    assert PYTHON is not None
    _, found = compare(case, str(Path(PYTHON).absolute()))
    assert max(found) < LIMIT, found


def test_converted_weights_give_torchvisions_outputs() -> None:
    """One program that is installed with the tests."""
    pytest.importorskip("torchvision")
    (case,) = (c for c in CASES if (c.package, c.name) == ("torchvision", "efficientnet_b0"))
    given = case_input(case)
    theirs = peer_program.outputs(case.package, case.name, given["state"], given["images"])
    assert max(differences(our_outputs(case, given), theirs)) < LIMIT
