# SPDX-License-Identifier: Apache-2.0
"""The machine code of the focal loss for sm_90: is it still as fast as memory? Needs no GPU.

With 16-bit logits the kernels have about as much to compute as to move: a GPU that copies 4.3 TB/s
has time for 31 to 35 instructions a logit. Reads the built ``effdet._C_cuda`` if it has code for
sm_90, else compiles the kernels alone. ``cuobjdump`` comes from the toolkit or from Triton's wheel.
"""

import importlib.util
import itertools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

import setup
from effdet.ops import _extension

KERNELS = Path(__file__).parents[2] / "effdet" / "csrc" / "cuda"
# Numbers of effdet::Exponent, in the mangled names.
EXPONENTS = {"1.5": 0, "2": 1}
SCALARS = {"float16": "6__half", "bfloat16": "13__nv_bfloat16", "float32": "f"}
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,6})\*/\s+([^;]*?)\s*;")
BRANCH = re.compile(r"^(@!?U?P\d+ )?BRA(?:\.\w+)* (.*?)(0x[0-9a-f]+)$")
MOST_INSTRUCTIONS = 35  # a logit
MOST_REGISTERS = 64


@dataclass(frozen=True)
class Function:
    """One kernel: its instructions by address, in order, and its registers."""

    code: dict[int, str]
    registers: int

    def find(self, pattern: str) -> list[int]:
        return [at for at, text in self.code.items() if re.search(pattern, text)]

    def loop_around(self, at: int) -> tuple[int, int]:
        """First and last address of the innermost loop that holds ``at``."""
        loops = []
        for last, text in self.code.items():
            branch = BRANCH.match(text)
            if branch and int(branch[3], 16) <= at <= last:
                loops.append((int(branch[3], 16), last))
        return min(loops, key=lambda loop: loop[1] - loop[0])

    def longest_path(self, first: int, last: int) -> int:
        """Most instructions from ``first`` to ``last``, both counted, without going back."""
        addresses = [at for at in self.code if first <= at <= last]
        following = dict(itertools.pairwise(addresses))
        steps = {first: 1}
        for at in addresses:
            if at not in steps:
                continue
            targets, text = [], self.code[at]
            branch = BRANCH.match(text)
            if branch:
                targets.append(int(branch[3], 16))
            always = branch and not branch[1] and not branch[2]
            if not always and text != "EXIT" and at in following:
                targets.append(following[at])
            for target in targets:
                if at < target <= last:
                    steps[target] = max(steps.get(target, 0), steps[at] + 1)
        return steps[last]


def find_cuobjdump() -> str:
    """The program that disassembles, or a skip."""
    home = setup.find_cuda_home({})
    candidates = [Path(home) / "bin" / "cuobjdump"] if home else []
    if triton := importlib.util.find_spec("triton"):
        assert triton.origin
        candidates.append(Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump")
    if on_path := shutil.which("cuobjdump"):
        candidates.append(Path(on_path))
    found = next((str(path) for path in candidates if path.exists()), None)
    return found or pytest.skip("no cuobjdump: neither in the CUDA toolkit nor in triton")


def built_module() -> Path | None:
    """``effdet._C_cuda`` if it was built with code for sm_90."""
    path = _extension.find_module("_C_cuda")
    if path is None or "9.0" not in _extension.read_record(path).architectures:
        return None
    folders = (KERNELS, KERNELS.parent / "common")
    newest = max(file.stat().st_mtime for folder in folders for file in folder.iterdir())
    return path if path.stat().st_mtime >= newest else None


def compiled_kernels(folder: Path) -> Path:
    """The kernels alone, compiled for sm_90; skips without a toolkit."""
    home = setup.find_cuda_home({})
    if home is None:
        pytest.skip("effdet._C_cuda has no code for sm_90 of these sources, and no nvcc was found")
    source = '#include "focal_loss.cuh"\nusing namespace effdet;\n'
    for scalar in ("__half", "__nv_bfloat16", "float"):
        for exponent in ("one_and_a_half", "two"):
            for kernel in ("focal_channels_last", "focal_contiguous"):
                source += (
                    f"template __global__ void effdet::{kernel}<{scalar}, Exponent::{exponent}, "
                    "false>(const __grid_constant__ FocalArguments<float>);\n"
                )
    (folder / "kernels.cu").write_text(source)
    cubin = folder / "kernels.cubin"
    command = [f"{home}/bin/nvcc", *setup.NVCC_FLAGS, "-arch=sm_90", "-cubin", f"-I{KERNELS}"]
    command += ["-o", str(cubin), str(folder / "kernels.cu")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return cubin


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Function]:
    return disassemble(tmp_path_factory.mktemp("cubin"))


def disassemble(folder: Path) -> dict[str, Function]:
    """All kernels by their mangled names; ``folder`` is for what has to be compiled."""
    cuobjdump = find_cuobjdump()
    binary = built_module() or compiled_kernels(folder)
    arch = ["-arch", "sm_90"] if binary.suffix == ".so" else []
    sass, usage = (
        subprocess.run([cuobjdump, what, *arch, str(binary)], capture_output=True, text=True)
        for what in ("-sass", "-res-usage")
    )
    assert sass.returncode == 0, sass.stderr
    registers = dict(re.findall(r"Function (\w+):\s+REG:(\d+)", usage.stdout))
    return {
        part.split(maxsplit=1)[0]: Function(
            {int(at, 16): text for at, text in INSTRUCTION.findall(part)},
            int(registers[part.split(maxsplit=1)[0]]),
        )
        for part in sass.stdout.split("Function : ")[1:]
    }


@pytest.fixture(params=["channels_last", "contiguous"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


def kernel(functions: dict[str, Function], layout: str, scalar: str, gamma: str) -> Function:
    wanted = f"focal_{layout}I{SCALARS[scalar]}LNS_8ExponentE{EXPONENTS[gamma]}ELb0E"
    (name,) = [name for name in functions if wanted in name]
    return functions[name]


def instructions_a_vector(function: Function) -> int:
    """On the longest path through the main loop, which handles one vector of 128 bits a round."""
    (load,) = function.find(r"LDG\S*\.128")
    first, last = function.loop_around(load)
    return function.longest_path(first, load) + function.longest_path(load, last) - 1


@pytest.mark.parametrize("gamma", EXPONENTS)
@pytest.mark.parametrize("scalar", ["float16", "bfloat16"])
def test_few_instructions_a_logit(
    functions: dict[str, Function], layout: str, scalar: str, gamma: str
) -> None:
    function = kernel(functions, layout, scalar, gamma)
    assert instructions_a_vector(function) / 8 <= MOST_INSTRUCTIONS


@pytest.mark.parametrize("gamma", EXPONENTS)
@pytest.mark.parametrize("scalar", SCALARS)
def test_vectors_of_128_bits_and_no_spills(
    functions: dict[str, Function], layout: str, scalar: str, gamma: str
) -> None:
    function = kernel(functions, layout, scalar, gamma)
    (load,), (store,) = function.find(r"LDG\S*\.128"), function.find(r"STG\S*\.128")
    first, last = function.loop_around(load)
    assert first < load < store < last
    assert not function.find("LDL|STL")
    assert function.registers <= MOST_REGISTERS


def test_path_through_a_loop_by_hand() -> None:
    code = ["MOV", "LDG", "@P0 BRA 0x50", "FADD", "FMUL", "STG", "@!P1 BRA 0x10", "EXIT"]
    function = Function({16 * i: text for i, text in enumerate(code)}, 8)
    assert function.loop_around(0x10) == (0x10, 0x60)
    assert function.longest_path(0x10, 0x60) == 6
    code[2] = "BRA 0x50"
    function = Function({16 * i: text for i, text in enumerate(code)}, 8)
    assert function.longest_path(0x10, 0x60) == 4
