# SPDX-License-Identifier: Apache-2.0
"""Links in a data folder, which may be another's: they may lead anywhere on this machine.

One rule for every format: what a link leads to outside of the data folder is not read, unless
``--follow-links`` is given. The data folder itself may be a link.
"""

import os
from pathlib import Path

from effdet.annotations.faults import Faults
from effdet.errors import printable

EXPECTED = "a file or folder within the data folder (--follow-links lets links lead out)"


def way_out(path: Path, within: Path | None) -> str | None:
    """The link by which ``path`` leaves a folder, and where it leads; None where it stays inside.

    Args:
        path: a file or folder that begins with ``within``, there or not.
        within: the folder; None: paths may lead anywhere.
    """
    if within is None:
        return None
    root = os.path.realpath(within)
    if _is_in(os.path.realpath(path), root):
        return None
    link = within
    for part in path.relative_to(within).parts:
        link = link / part
        target = os.path.realpath(link)
        if not _is_in(target, root):
            break
    return f"the link {printable(str(link))} to {printable(target)}"


def refuse_way_out(path: Path, within: Path | None, faults: Faults) -> bool:
    """Whether ``path`` leaves the folder ``within`` by a link, which is a fault then."""
    found = way_out(path, within)
    if found is not None:
        place = printable(str(path))
        faults.add("link", "the file" if place == faults.file else place, EXPECTED, found)
    return found is not None


def _is_in(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
