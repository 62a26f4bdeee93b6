# SPDX-License-Identifier: Apache-2.0
"""The forms in which weights are written for use, chosen by the end of a file's name."""

from collections.abc import Callable
from pathlib import Path

from effdet.errors import UsageError
from effdet.weights.checkpoint import Checkpoint, save_checkpoint
from effdet.weights.published import save_published

_WRITERS: dict[str, Callable[[Checkpoint, Path], None]] = {
    ".safetensors": save_published,
    ".pt": save_checkpoint,
}


def check_new_weights(output: Path) -> None:
    """Refuse, before anything is read, a name that weights cannot be written under.

    Raises:
        UsageError: where it is there already, has no folder or has another end.
    """
    if output.suffix not in _WRITERS:
        raise UsageError(f"{output}: expected a name that ends with {' or '.join(_WRITERS)}")
    if output.exists():
        raise UsageError(f"{output} is there already; move it away or give another name")
    if not output.parent.is_dir():
        raise UsageError(f"{output}: there is no folder {output.parent}; make it first")


def write_weights(checkpoint: Checkpoint, output: Path) -> None:
    """Write ``checkpoint`` in the form that the name asks for.

    Raises:
        DivergedError, WriteError: as :func:`save_checkpoint`.
    """
    _WRITERS[output.suffix](checkpoint, output)
