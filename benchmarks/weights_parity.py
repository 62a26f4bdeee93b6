# SPDX-License-Identifier: Apache-2.0
"""How far are our outputs from those of the programs whose weights we read?

Random weights, random running statistics among them, under the other program's names; random
images; the largest difference of any output in units of that output's largest value.

    python -m venv peers
    peers/bin/pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 effdet==0.4.1
    peers/bin/pip install --no-deps efficientnet-pytorch==0.7.1 efficientnet-lite-pytorch==0.1.0
    python benchmarks/weights_parity.py --peer peers/bin/python

Writes results/weights_parity.json.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from measuring import write_result

from tests.weights.peers import CASES, Case, compare

LIMIT = 1e-4


def main() -> None:
    """Compare, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer", required=True, help="python of an environment as above")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    python = str(Path(arguments.peer).absolute())
    rows, worst = [], 0.0
    for case in CASES:
        program, differences = compare(case, python)
        worst = max(worst, *differences)
        rows.append(row(case, program, differences))
        print(rows[-1], flush=True)
    write_result("weights_parity", {"limit": LIMIT, "largest": shown(worst), "models": rows})
    if worst >= LIMIT:
        raise SystemExit(f"outputs differ by {worst:.1e}, must be below {LIMIT:g}")


def row(case: Case, program: str, differences: list[float]) -> dict[str, str | float]:
    """Program, model, images and the largest difference."""
    height, width = case.size
    return {
        "program": program,
        "model": case.name,
        "images": f"2 x {height} x {width}",
        "largest_relative_difference": shown(max(differences)),
    }


def shown(difference: float) -> float:
    """Two digits of it."""
    return float(f"{difference:.2g}")


if __name__ == "__main__":
    main()
