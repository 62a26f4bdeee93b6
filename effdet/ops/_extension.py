# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled kernels where they were built and fit the running torch.

Importing ``effdet._C`` (CPU) and ``effdet._C_cuda`` registers their kernels with the dispatcher,
which from then on prefers them. Without them every operator runs through its definition in
PyTorch: slower, with the same result. ``EFFDET_REQUIRE_KERNELS=1`` makes that an ``ImportError``.
"""

import importlib
import importlib.util
import os
import platform
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

REBUILD = "to build them: pip install -e . (in effdet's source folder)"

_RECORD = re.compile(
    rb"effdet-build torch=(\S+) min_torch=(\S+) cuda=(\S+) architectures=(\S+) end"
)


@dataclass(frozen=True)
class BuildRecord:
    """What a compiled module says about its own build.

    Attributes:
        torch: version of the torch it was compiled with.
        min_torch: lowest torch it can run with.
        cuda: version of that torch's CUDA, "none" for the CPU module.
        architectures: GPU architectures in the form of TORCH_CUDA_ARCH_LIST, "none" likewise.
    """

    torch: str
    min_torch: str
    cuda: str
    architectures: str


@dataclass(frozen=True)
class Module:
    """State of one compiled module: its record (None: not built) and why it is not loaded."""

    record: BuildRecord | None
    reason: str | None


_modules: dict[str, Module] = {}


def load() -> None:
    """Load the modules; say in one warning why kernels that could be used are not.

    Raises:
        ImportError: instead of the warning, with ``EFFDET_REQUIRE_KERNELS=1``.
    """
    _modules.update(_C=load_module("_C"), _C_cuda=load_module("_C_cuda"))
    reason = _modules["_C"].reason or _modules["_C_cuda"].reason
    if reason is None or (_modules["_C"].reason is None and not _misses_cuda()):
        return
    message = f"compiled kernels are not in use: {reason}; {REBUILD}"
    if os.environ.get("EFFDET_REQUIRE_KERNELS") == "1":
        raise ImportError(f"effdet: {message}")
    # warn_explicit, so that no line of this file is printed below the message.
    text = f"{message}; the slower PyTorch implementations are used"
    warnings.warn_explicit(text, RuntimeWarning, "effdet", 0, module="effdet.ops")


def load_module(name: str) -> Module:
    """Import ``effdet.NAME`` if it is there and fits the running torch."""
    path = find_module(name)
    if path is None:
        return Module(None, not_built(name))
    record = read_record(path)
    reason = misfit(record)
    if reason is None:
        try:
            importlib.import_module(f"effdet.{name}")
        except ImportError as error:
            reason = f"{_versions(record)} ({' '.join(str(error).split())})"
    return Module(record, reason)


def find_module(name: str) -> Path | None:
    """The file of ``effdet.NAME`` for this Python, or None."""
    spec = importlib.util.find_spec(f"effdet.{name}")
    return Path(spec.origin) if spec and spec.origin else None


def not_built(name: str) -> str:
    """Why there is no ``effdet.NAME``: never built, or built for another Python."""
    others = sorted(Path(__file__).parents[1].glob(f"{name}.*.so"))
    if others:
        return f"{others[0].name} was built for another Python than {platform.python_version()}"
    return "they were not built" if name == "_C" else "the CUDA kernels were not built"


def read_record(path: Path) -> BuildRecord:
    """The record in the bytes of a compiled module, which need not be loadable."""
    found = _RECORD.search(path.read_bytes())
    if found is None:
        return BuildRecord("unknown", "0", "none", "none")
    return BuildRecord(*(group.decode() for group in found.groups()))


def misfit(record: BuildRecord) -> str | None:
    """Why a module with this record cannot run with the running torch; None where it can."""
    if _version(torch.__version__) < _version(record.min_torch):
        return f"{_versions(record)}, older than {record.min_torch}"
    if record.cuda == "none":
        return None
    running = torch.version.cuda
    if running is None or _version(running)[:1] != _version(record.cuda)[:1]:
        return f"{_versions(record)}, CUDA {record.cuda} against {running}"
    return None


def build_info() -> dict[str, Any]:
    """What was built and what is in use.

    Returns:
        ``built_torch``, ``built_cuda`` and ``architectures`` (None where not built),
        ``running_torch`` and ``running_cuda``, ``instruction_set`` (of the processor, that the CPU
        kernels use: "baseline", "avx2" or "avx512"; None where they are not loaded),
        ``cpu_kernels`` and ``cuda_kernels`` (whether they are loaded), ``reason`` (why one of them
        is not, or None).
    """
    cpu, cuda = _modules["_C"], _modules["_C_cuda"]
    record = cuda.record or cpu.record
    return {
        "built_torch": record.torch if record else None,
        "built_cuda": cuda.record.cuda if cuda.record else None,
        "architectures": cuda.record.architectures if cuda.record else None,
        "running_torch": torch.__version__,
        "running_cuda": torch.version.cuda,
        "instruction_set": instruction_set(),
        "cpu_kernels": cpu.reason is None,
        "cuda_kernels": cuda.reason is None,
        "reason": cpu.reason or cuda.reason,
    }


def instruction_set() -> str | None:
    """What the CPU kernels were told to use, or found; None where they are not loaded.

    ``EFFDET_INSTRUCTION_SET=baseline|avx2`` keeps them below what the processor has.
    """
    module = sys.modules.get("effdet._C")
    return None if module is None else str(module.instruction_set)


def _misses_cuda() -> bool:
    """Whether there is a GPU whose kernels are missing (asked only where they are not loaded)."""
    built = _modules["_C_cuda"].record is not None
    return torch.version.cuda is not None and (built or torch.cuda.device_count() > 0)


def _versions(record: BuildRecord) -> str:
    return f"built with torch {record.torch}, running with torch {torch.__version__}"


def _version(text: str) -> tuple[int, ...]:
    """Major and minor version of "2.14.1+cu130"."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
