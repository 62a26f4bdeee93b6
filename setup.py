# SPDX-License-Identifier: Apache-2.0
"""Builds the kernels: ``effdet._C`` (CPU) and, where a CUDA toolkit is found, ``effdet._C_cuda``.

Everything else about the package stands in pyproject.toml. Every source under effdet/csrc is
compiled: a new operator needs no edit here. The kernels use only LibTorch's stable ABI, so one
build serves every torch from ``MIN_TORCH`` on.

Environment variables:
    EFFDET_CUDA: ``auto`` (default) builds the CUDA kernels where that is possible, ``1`` fails
        where it is not, ``0`` leaves them out.
    EFFDET_REQUIRE_KERNELS: ``1`` fails where kernels cannot be compiled. Without it the
        installation goes on without them, and the PyTorch implementations are used.
    EFFDET_SANITIZE: ``1`` puts AddressSanitizer and UndefinedBehaviorSanitizer into the CPU
        kernels; such a build only loads where they are in the process already (``make sanitize``).
    TORCH_CUDA_ARCH_LIST, CUDA_HOME, CXX, MAX_JOBS: as everywhere with PyTorch.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from setuptools import setup

MIN_TORCH = (2, 11)
DEFAULT_ARCHITECTURES = "7.5;8.0;9.0+PTX"
BUILD_COMMANDS = {"build", "build_ext", "editable_wheel", "bdist_wheel", "develop", "install"}
CXX_FLAGS = [
    *("-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"),
    # What the loops of csrc/cpu/*_simd.h need to be vectorised, and to round as PyTorch does.
    *("-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
]
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"
SANITIZE_FLAGS = [SANITIZERS, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g1"]
NVCC_FLAGS = ["-O3", "-std=c++17"]


def say(message: str) -> None:
    """One line about the build, on stderr."""
    print(f"effdet build: {message}", file=sys.stderr, flush=True)


def is_build(argv: Sequence[str]) -> bool:
    """Whether the command compiles (the commands that only read metadata must not need torch)."""
    return not BUILD_COMMANDS.isdisjoint(argv)


def is_required(argv: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a failing compiler is an error: on demand, and where only a build was asked for."""
    return environment.get("EFFDET_REQUIRE_KERNELS") == "1" or "build_ext" in argv


def cuda_wish(environment: Mapping[str, str]) -> str:
    """``EFFDET_CUDA``: "auto", "1" or "0"."""
    wish = environment.get("EFFDET_CUDA", "auto").lower()
    if wish not in ("auto", "1", "0"):
        raise SystemExit(f"effdet build: EFFDET_CUDA must be auto, 1 or 0, got {wish!r}")
    return wish


def find_compiler(environment: Mapping[str, str]) -> str | None:
    """The C++ compiler: ``CXX``, else the first usual one on the path; None if it does not run."""
    names = [environment["CXX"]] if environment.get("CXX") else ["c++", "g++", "clang++"]
    return next((name for name in names if runs([*name.split(), "--version"], environment)), None)


def runs(command: list[str], environment: Mapping[str, str]) -> bool:
    """Whether the command is on the path of ``environment`` and succeeds."""
    program = shutil.which(command[0], path=environment.get("PATH"))
    if program is None:
        return False
    return subprocess.run([program, *command[1:]], capture_output=True).returncode == 0


def is_cuda_home(folder: str | Path) -> bool:
    """Whether ``folder`` holds a toolkit: the compiler and the runtime's headers."""
    folder = Path(folder)
    return (folder / "bin/nvcc").exists() and (folder / "include/cuda_runtime.h").exists()


def find_cuda_home(environment: Mapping[str, str]) -> str | None:
    """The CUDA toolkit, found by its content.

    The folder above an ``nvcc`` on the path is not enough: it may be a wrapper script elsewhere.
    """
    candidates = [environment.get("CUDA_HOME"), environment.get("CUDA_PATH")]
    if nvcc := shutil.which("nvcc", path=environment.get("PATH")):
        candidates += [str(Path(nvcc).resolve().parents[1]), toolkit_named_by(nvcc)]
    candidates += ["/usr/local/cuda", "/opt/cuda", *sorted(glob("/usr/local/cuda-*"), reverse=True)]
    return next((folder for folder in candidates if folder and is_cuda_home(folder)), None)


def toolkit_named_by(nvcc: str) -> str | None:
    """The folder that ``nvcc`` itself takes for its root."""
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    result = subprocess.run(command, capture_output=True, text=True)
    root = re.search(r"^#\$ TOP=(.*)$", result.stderr, re.MULTILINE)
    return os.path.realpath(root.group(1)) if root else None


def cuda_version(cuda_home: str) -> str | None:
    """The toolkit's version, as in "13.0"."""
    command = [f"{cuda_home}/bin/nvcc", "--version"]
    result = subprocess.run(command, capture_output=True, text=True)
    release = re.search(r"release (\d+\.\d+)", result.stdout)
    return release.group(1) if release else None


def why_no_cuda(
    wish: str, torch_version: str, torch_cuda: str | None, cuda_home: str | None
) -> str | None:
    """The reason why the CUDA kernels cannot be built; None where they can."""
    if wish == "0":
        return "EFFDET_CUDA=0"
    if torch_cuda is None:
        return f"torch {torch_version} has no CUDA"
    if cuda_home is None:
        return "no CUDA toolkit (nvcc) found; set CUDA_HOME"
    toolkit = cuda_version(cuda_home)
    if toolkit is None or toolkit.split(".")[0] != torch_cuda.split(".")[0]:
        return f"CUDA {toolkit} at {cuda_home} does not fit torch's CUDA {torch_cuda}"
    return None


def default_architectures(torch: Any) -> str:
    """Those of the visible GPUs; on a machine without one, what most people have."""
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    if found:
        return ";".join(f"{major}.{minor}" for major, minor in sorted(found))
    # CUDA 13 has left Volta out.
    volta = "7.0;" if int(str(torch.version.cuda).split(".")[0]) < 13 else ""
    return volta + DEFAULT_ARCHITECTURES


def pybind11_include(torch_folder: Path) -> str:
    """pybind11's headers: the package's, else the copy that comes with torch."""
    if importlib.util.find_spec("pybind11") is None:
        return str(torch_folder / "include")
    import pybind11

    return str(pybind11.get_include())


def build_record(torch_version: str, torch_cuda: str, architectures: str) -> str:
    """What effdet/ops/_extension.py reads from a built file before it loads it."""
    minimum = ".".join(map(str, MIN_TORCH))
    return (
        f"effdet-build torch={torch_version} min_torch={minimum} cuda={torch_cuda} "
        f"architectures={architectures} end"
    )


def extension(kind: Any, name: str, folder: str, record: str, include: str, optional: bool) -> Any:
    """The module ``effdet.NAME`` of all sources in effdet/csrc/FOLDER."""
    sources = sorted(glob(f"effdet/csrc/{folder}/*.cpp") + glob(f"effdet/csrc/{folder}/*.cu"))
    major, minor = MIN_TORCH
    macros = [
        ("TORCH_TARGET_VERSION", f"0x{major:02x}{minor:02x}000000000000ULL"),
        ("EFFDET_BUILD_RECORD", f'"{record}"'),
    ]
    if folder == "cuda":
        macros.append(("USE_CUDA", "1"))
    sanitize = os.environ.get("EFFDET_SANITIZE") == "1" and folder == "cpu"
    cxx_flags = CXX_FLAGS + (SANITIZE_FLAGS if sanitize else [])
    module = kind(
        f"effdet.{name}",
        sources,
        depends=[
            header
            for pattern in (f"{folder}/*.h", f"{folder}/*.cuh", "common/*.h")
            for header in glob(f"effdet/csrc/{pattern}")
        ],
        include_dirs=[include],
        define_macros=macros,
        extra_compile_args={"cxx": cxx_flags, "nvcc": NVCC_FLAGS},
        extra_link_args=[SANITIZERS] if sanitize else [],
        optional=optional,
    )
    # Nothing in the kernels needs libtorch_python, whose ABI is not stable.
    module.libraries = [library for library in module.libraries if library != "torch_python"]
    return module


def build_ext_command(base: Any) -> Any:
    """``base`` (torch's build_ext), with every failure in the form that ``optional`` forgives."""

    class BuildKernels(base):  # type: ignore[misc]  # torch may be absent
        def build_extension(self, ext: Any) -> None:
            try:
                super().build_extension(ext)
            except Exception as error:
                if not ext.optional:
                    raise
                from setuptools.errors import CompileError

                first_line = str(error).strip().splitlines()[0]
                say(f"{ext.name} could not be compiled ({first_line}); it is left out")
                raise CompileError(first_line) from error

    return BuildKernels.with_options(use_ninja=shutil.which("ninja") is not None)


def kernels() -> dict[str, Any]:
    """The arguments of ``setup`` that build the kernels."""
    required = is_required(sys.argv, os.environ)
    compiler = find_compiler(os.environ)
    if compiler is None:
        message = "no C++ compiler that runs; install one or set CXX"
        if required:
            raise SystemExit(f"effdet build: {message}")
        say(f"no kernels, the PyTorch implementations will be used ({message})")
        return {}
    os.environ["CXX"] = compiler

    import torch

    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < MIN_TORCH:
        minimum = ".".join(map(str, MIN_TORCH))
        raise SystemExit(f"effdet build: torch >= {minimum} is needed, found {torch.__version__}")
    wish, home = cuda_wish(os.environ), find_cuda_home(os.environ)
    missing = why_no_cuda(wish, torch.__version__, torch.version.cuda, home)
    if wish == "1" and missing:
        raise SystemExit(f"effdet build: EFFDET_CUDA=1 but {missing}")
    if missing is None:
        # torch reads the first at import of cpp_extension, and fails on a machine without a GPU
        # where the second is not set.
        os.environ["CUDA_HOME"] = str(home)
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default_architectures(torch))
    from torch.utils import cpp_extension

    torch_folder = Path(torch.__file__).parent
    include = pybind11_include(torch_folder)
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or "none"
    record = build_record(torch.__version__, "none", "none")
    modules = [extension(cpp_extension.CppExtension, "_C", "cpu", record, include, not required)]
    outcome = f"CPU kernels only ({missing})"
    if missing is None:
        record = build_record(torch.__version__, str(torch.version.cuda), architectures)
        optional = not (required or wish == "1")
        modules.append(
            extension(cpp_extension.CUDAExtension, "_C_cuda", "cuda", record, include, optional)
        )
        outcome = f"CPU kernels, and CUDA kernels for {architectures} with {home}"
    say(f"torch {torch.__version__} at {torch_folder}; {outcome}")
    return {
        "ext_modules": modules,
        "cmdclass": {"build_ext": build_ext_command(cpp_extension.BuildExtension)},
    }


if __name__ == "__main__":
    setup(**(kernels() if is_build(sys.argv) else {}))
