# SPDX-License-Identifier: Apache-2.0
"""What the writers of all formats are given and give."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from effdet.annotations import AnnotationTable
from effdet.data.formats.class_ids import is_name
from effdet.errors import DataError, shown


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitToWrite:
    """A split that is to be written.

    Attributes:
        name: ``train``, ``val`` or another.
        table: its annotations; all splits have the same categories.
        file_names: ``[N]`` of the images in their new folder.
    """

    name: str
    table: AnnotationTable
    file_names: Sequence[str]


def check_class_names(table: AnnotationTable, what: str) -> None:
    """Refuse names of classes that would not be read again.

    Raises:
        DataError: naming the first; ``what`` is where it cannot stand.
    """
    for name in table.category_names:
        if not is_name(name) or not name.isprintable():
            raise DataError(f"{table.name}: the class name {shown(name)} cannot stand in {what}")


class Writer(Protocol):
    """What writes a format: a module ``write_...`` of ``effdet.data.formats``."""

    ONE_FOLDER: bool
    """Whether the images of all splits lie in one folder."""

    def image_folder(self, split: str) -> str:
        """Where a split's images go, relative to the data folder."""

    def write(self, folder: Path, splits: Sequence[SplitToWrite]) -> Counter[str]:
        """Write the annotations of all splits into an empty folder.

        Returns:
            What cannot be held, by words.

        Raises:
            DataError: for names of classes that the format does not take.
        """
