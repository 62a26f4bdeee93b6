# SPDX-License-Identifier: Apache-2.0
"""What a run runs on: ``environment.json``, an entry a start."""

import importlib.metadata
import json
import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from effdet import __version__, processes
from effdet.cpus import usable_cpus
from effdet.files import replace_text

LIBRARIES = (
    "torch", "torchvision", "numpy", "pillow", "pycocotools", "faster-coco-eval", "tqdm",
    "dllogger", "tensorboard", "wandb", "mlflow",
)  # fmt: skip
"""Packages whose versions are told where they are installed; none is imported for it."""


def environment(device: torch.device, world_size: int) -> dict[str, Any]:
    """Versions, hardware and command line of this start.

    Environment variables and the name of the machine are left out: they may be secrets.

    Args:
        device: that is trained on.
        world_size: number of processes.
    """
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arguments": sys.argv,
        "versions": {"effdet": __version__, "python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "cpu": {
            "model": _cpu_model(),
            "count": os.cpu_count(),
            "usable": usable_cpus(),
            "threads": torch.get_num_threads(),
        },
        "device": str(device),
        "gpus": _gpus(device),
        "world_size": world_size,
    }


def append_environment(path: Path, entry: dict[str, Any]) -> None:
    """Add ``entry`` to the JSON list at ``path``; a damaged list begins anew.

    Raises:
        OSError: it cannot be written; the old list is still there.
    """
    starts: list[Any] = []
    if path.exists():
        try:
            starts = list(json.loads(path.read_text()))
        except ValueError:
            starts = []
    replace_text(path, json.dumps([*starts, entry], indent=1) + "\n")


def peak_memory(device: torch.device | None) -> int | None:
    """Bytes: the most that torch had on a GPU, or this process on the CPU; None where unknown.

    The GPU is not waited for.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return processes.peak_memory()


def _versions() -> dict[str, str | int | None]:
    versions: dict[str, str | int | None] = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return versions | {"cuda": torch.version.cuda, "cudnn": cudnn}


def _gpus(device: torch.device) -> list[str]:
    if device.type != "cuda":
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
