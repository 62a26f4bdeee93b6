# SPDX-License-Identifier: Apache-2.0
"""Folders that are whole or not there at all."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from effdet.files.writing import make_folder, refuse_taken, rename, write_error
from effdet.processes import process_mark


@contextlib.contextmanager
def whole_folder(output: str | Path, advice: str) -> Iterator[Path]:
    """A folder to fill, which is called ``output`` when all of it is written.

    Until then it is ``.NAME.PROCESS.XXXXXXXX.part`` beside that, a name that nothing else has.
    After an error nothing is left; what a killed process leaves has not the name, and goes when
    the next one is to write the same folder.

    Args:
        output: a folder that does not exist or is empty; messages call it OUTPUT.
        advice: what to do where there is something in it already.

    Raises:
        UsageError: where it holds something or cannot be made.
        WriteError: where the filled folder cannot get its name.
    """
    refuse_taken(Path(output), "OUTPUT", advice)
    folder = Path(output).resolve()
    made = [path for path in folder.parents if not path.exists()]
    _remove_leftovers(folder)
    owner = process_mark(os.getpid())
    part = folder.with_name(f".{folder.name}.{owner}.{secrets.token_hex(4)}.part")
    try:
        make_folder(folder.parent, Path(output), "OUTPUT")
        try:
            part.mkdir()
        except OSError as error:
            raise write_error(part, error) from error
        try:
            yield part
            rename(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _remove_leftovers(folder: Path) -> None:
    """Delete what processes that are gone have left of the same ``folder``.

    Only what bears the mark of a process of this machine, and belongs to this user: of others it
    cannot be known whether they still write.
    """
    name = rf"\.{re.escape(folder.name)}\.((\d+)-\d+-[0-9a-f]{{8}})\.[0-9a-f]{{8}}\.part"
    with contextlib.suppress(OSError):  # there is no such folder, or it cannot be listed
        for path in list(folder.parent.iterdir()):
            found = re.fullmatch(name, path.name)
            if found is not None and _is_left(path, found[1], int(found[2])):
                shutil.rmtree(path, ignore_errors=True)


def _is_left(path: Path, mark: str, process: int) -> bool:
    here = process_mark(os.getpid()).rpartition("-")[2]
    is_ours = mark.endswith(f"-{here}") and path.lstat().st_uid == os.geteuid()
    return is_ours and process_mark(process) != mark
