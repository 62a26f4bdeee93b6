# SPDX-License-Identifier: Apache-2.0
"""How many instructions a logit does the focal loss have on sm_90? Needs no GPU.

Counts as tests/ops/test_cuda_machine_code.py does, in the built ``effdet._C_cuda``.

    python benchmarks/machine_code.py

Writes benchmarks/results/machine_code.json.
"""

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.ops.test_cuda_machine_code import (
    EXPONENTS,
    SCALARS,
    Function,
    disassemble,
    instructions_a_vector,
    kernel,
)


def main() -> None:
    """Count every kernel with gradient, print a line each and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        functions = disassemble(Path(folder))
    rows = [
        count(functions, layout, scalar, gamma)
        for layout, scalar, gamma in itertools.product(
            ("channels_last", "contiguous"), SCALARS, EXPONENTS
        )
    ]
    write_result("machine_code", {"architecture": "sm_90", "rows": rows})


def count(functions: dict[str, Function], layout: str, scalar: str, gamma: str) -> dict[str, Any]:
    """The figures of one kernel."""
    function = kernel(functions, layout, scalar, gamma)
    logits = 4 if scalar == "float32" else 8
    row = {
        "layout": layout,
        "dtype": scalar,
        "gamma": float(gamma),
        "instructions_a_logit": round(instructions_a_vector(function) / logits, 1),
        "registers": function.registers,
        "spills": len(function.find("LDL|STL")),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
