# SPDX-License-Identifier: Apache-2.0
"""Broken and hostile input: what generated faults in every kind of input come to.

    python benchmarks/hostile_input.py annotations images weights operators
    python benchmarks/hostile_input.py images --cases 1000 --seed 7

Runs the drivers of tests/fuzz, by default with the numbers of cases that ``make test-slow`` uses,
and writes results/hostile_NAME.json for each. Anything that was not as it must be ends the program
with an error; the result file has the cases.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

from measuring import write_result

CASES = {"annotations": 100_000, "images": 100_000, "weights": 20_000, "operators": 100_000}


FAULTS = ("deaths", "hangs", "faults", "differences", "failures")
"""Figures of the drivers that must be 0 or empty."""


def main() -> None:
    """Run the drivers that were named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+", choices=sorted(CASES))
    parser.add_argument("--cases", type=int, help="instead of the full number")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    for name in options.inputs:
        fuzz = importlib.import_module(f"tests.fuzz.{name}").fuzz
        start = time.monotonic()
        figures = fuzz(options.cases or CASES[name], options.seed)
        figures["minutes"] = round((time.monotonic() - start) / 60, 1)
        write_result(f"hostile_{name}", figures)
        print(f"{name}: {figures}")
        if wrong := {key: figures[key] for key in FAULTS if figures.get(key)}:
            raise SystemExit(f"{name}: not as it must be: {wrong}")


if __name__ == "__main__":
    main()
