# SPDX-License-Identifier: Apache-2.0
"""Compiles CUDA device code for the CPU and calls it; cuda_runtime.h says what is simulated.

With ``EFFDET_SANITIZE=1`` under AddressSanitizer and UndefinedBehaviorSanitizer, which must be in
the process from its start; tensors that torch allocates are then guarded too::

    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \\
    ASAN_OPTIONS=detect_leaks=0 EFFDET_SANITIZE=1 python -m pytest tests/ops/test_cuda_host_nms.py
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

SHIM = Path(__file__).parent
KERNELS = Path(__file__).parents[2] / "effdet" / "csrc" / "cuda"
FLAGS = [
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function"),
    # Each library has its own shared memory, also where another has a kernel of the same name.
    "-fno-gnu-unique",
]
IS_SANITIZED = os.environ.get("EFFDET_SANITIZE") == "1"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


class KernelError(Exception):
    """What the simulated machine found wrong in a launch."""


class Library:
    """Functions of one compiled source; a call raises what its launches did wrong."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.cuda_shim_error.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``name``, a function without result.

        Args:
            name: an ``extern "C"`` function.
            arguments: ctypes values, ints (for C's ``int``), or CPU tensors (for their address).
        """
        function = getattr(self._library, name)
        function.restype = None
        function(*(pointer(x) if isinstance(x, Tensor) else x for x in arguments))
        error = self._library.cuda_shim_error()
        if error is not None:
            raise KernelError(error.decode())

    def schedule(self, seed: int) -> None:
        """Order of threads and blocks: 0 forward, 1 backward, else random."""
        self._library.cuda_shim_schedule(ctypes.c_uint64(seed))


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Address of a CPU tensor's data; the tensor must outlive its use."""
    assert tensor.device.type == "cpu"
    return ctypes.c_void_p(tensor.data_ptr())


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array:
    """Addresses of CPU tensors as an array of C pointers; null for empty tensors."""
    return (ctypes.c_void_p * len(tensors))(*(pointer(x) if x.numel() else None for x in tensors))


def build(source: str, folder: Path, name: str = "kernel") -> Library:
    """Compile C++ that includes files of effdet/csrc/cuda, in ``folder``; skips without g++."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile device code for the CPU")
    cpp, library = folder / f"{name}.cpp", folder / f"{name}.so"
    cpp.write_text(source)
    flags = FLAGS + (SANITIZE if IS_SANITIZED else [])
    command = [*compiler.split(), *flags, f"-I{SHIM}", f"-I{KERNELS}", "-o", library, cpp]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return Library(library)
