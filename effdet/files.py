# SPDX-License-Identifier: Apache-2.0
"""Places to write to, checked before the work that fills them."""

from pathlib import Path

from effdet.errors import UsageError


def new_folder(output: str | Path, advice: str) -> Path:
    """Make the folder that ``--output`` names, which must not exist or be empty.

    Args:
        output: the folder.
        advice: what to do where there is something in it already.

    Raises:
        UsageError: where it holds something or cannot be made.
    """
    folder = Path(output)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            kind = "is not empty" if folder.is_dir() else "is not a folder"
            raise UsageError(f"--output {folder} exists and {kind}; {advice}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {folder} cannot be made: {error.strerror}") from error
    return folder
