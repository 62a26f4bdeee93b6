# SPDX-License-Identifier: Apache-2.0
"""Build backend: setuptools, and torch taken from the environment that is installed into.

Were torch a plain build requirement, every isolated build would download the newest one, several
gigabytes, and compile against that instead of the one that will run. So this backend looks for
torch in the target environment first and asks for a torch of its own only where there is none.

pip isolates a build through ``PYTHONPATH`` with the target's own interpreter; that interpreter
started with ``-E`` sees the target environment again. Front ends that build in a separate virtual
environment (``python -m build``) are given torch as a build requirement; the stable ABI makes the
result fit any torch that setup.py allows.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

TORCH = "torch>=2.11"

_PROBE = """
import importlib.util, json, sys
print(json.dumps({"path": sys.path, "torch": importlib.util.find_spec("torch") is not None}))
"""


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Nothing more than pyproject.toml names, or torch where the target environment has none."""
    if _torch_here() or target_environment()["torch"]:
        return []
    return [torch_requirement(os.environ)]


get_requires_for_build_editable = get_requires_for_build_wheel


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel against the target environment's torch."""
    _expose_torch()
    return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build the kernels in place against the target environment's torch."""
    _expose_torch()
    return str(build_meta.build_editable(wheel_directory, config_settings, metadata_directory))


def target_environment() -> dict[str, Any]:
    """``sys.path`` of the environment that is installed into, and whether it holds torch."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [sys.executable, "-E", "-c", _PROBE]
    here = Path(__file__).parent
    result = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True)
    if result.returncode != 0:
        return {"path": [], "torch": False}
    found: dict[str, Any] = json.loads(result.stdout)
    # The first entry of `python -c` is the working directory, written as "".
    found["path"] = [entry for entry in found["path"] if entry]
    return found


def torch_requirement(environment: Mapping[str, str]) -> str:
    """``torch==VERSION`` where a constraints file named in the environment pins it.

    Newer pip applies ``PIP_CONSTRAINT`` to the installation but not to the build environment; the
    kernels should be compiled against the version that is about to be installed.
    """
    names = environment.get("PIP_CONSTRAINT", "").split()
    for path in filter(Path.is_file, map(Path, names)):
        if pin := re.search(r"^torch *== *([^\s;#]+)", path.read_text(), re.MULTILINE):
            return f"torch=={pin.group(1)}"
    return TORCH


def _torch_here() -> bool:
    return importlib.util.find_spec("torch") is not None


def _expose_torch() -> None:
    """Let setup.py import the target's torch; at the end, so the build requirements win."""
    if not _torch_here():
        sys.path += [entry for entry in target_environment()["path"] if entry not in sys.path]
