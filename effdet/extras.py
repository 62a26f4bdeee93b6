# SPDX-License-Identifier: Apache-2.0
"""Packages that only some of the toolkit needs."""

import importlib
from types import ModuleType

from effdet.errors import EffdetError

PROJECT = "effdet-toolkit"


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
        raise error(
            f"{what} needs the package {missing.name}, which is not installed: "
            f"pip install '{PROJECT}[{extra}]' (in a clone: pip install -e '.[{extra}]')"
        ) from missing
