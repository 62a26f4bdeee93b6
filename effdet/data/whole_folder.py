# SPDX-License-Identifier: Apache-2.0
"""A new folder that is there whole or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from effdet.files import new_folder, write_error


@contextlib.contextmanager
def whole_folder(output: str | Path, advice: str) -> Iterator[Path]:
    """A folder to fill, which is called ``output`` when all of it is written.

    Until then it is ``.NAME.part`` beside that. After an error nothing is left; what a killed
    process leaves has not the name, and goes when the same is written again.

    Args:
        output: a folder that does not exist or is empty.
        advice: what to do where there is something in it already.

    Raises:
        UsageError: where it holds something or cannot be made.
        WriteError: where the filled folder cannot get its name.
    """
    folder = Path(output).resolve()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    new_folder(output, advice)
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        _make(part)
        yield part
        try:
            part.replace(folder)
        except OSError as error:
            raise write_error(Path(output), error) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _make(part: Path) -> None:
    try:
        part.mkdir()
    except OSError as error:
        raise write_error(part, error) from error
