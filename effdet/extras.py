# SPDX-License-Identifier: Apache-2.0
"""Packages that only some of the toolkit needs."""

import importlib
from types import ModuleType

from effdet.errors import EffdetError

PROJECT = "effdet-toolkit"

EXTRAS = {
    "keras": ("h5py",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "video": ("av",),
}
"""Optional packages, in groups as in pyproject.toml."""


def import_extra(module: str, extra: str, what: str, error: type[EffdetError]) -> ModuleType:
    """A module of an optional package.

    Args:
        module: such as ``onnxruntime``.
        extra: the group of optional packages in pyproject.toml that it is in; several, with
            commas, where what needs it needs them all.
        what: what needs it, such as ``export to ONNX``.
        error: raised where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        # By their names: to install the extra in a clone would compile the kernels again.
        packages = " ".join(name for group in extra.split(",") for name in EXTRAS[group])
        raise error(
            f"{what} needs the package {missing.name}, which is not installed: "
            f"pip install {packages} (the extra {PROJECT}[{extra}])"
        ) from missing
