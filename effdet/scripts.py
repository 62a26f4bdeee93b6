# SPDX-License-Identifier: Apache-2.0
"""Where the programs lie that stand beside the package, in the repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def script(name: str, root: Path = ROOT) -> str:
    """How ``train.py`` or ``validate.py`` is called from the current folder.

    The name alone where the program lies here, or where nobody knows it: the package was installed
    without the repository. Else its path, as seen from here if that is shorter.

    Args:
        name: of the program.
        root: the repository.
    """
    path = root / name
    if not path.is_file() or not (root / "pyproject.toml").is_file():
        return name
    try:
        return min(os.path.relpath(path), str(path), key=len)
    except (OSError, ValueError):  # the current folder is gone, or on another drive
        return str(path)
