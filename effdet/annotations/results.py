# SPDX-License-Identifier: Apache-2.0
"""A COCO results file, read and checked."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from effdet.annotations import rows
from effdet.annotations.columns import Columns, SectionReader
from effdet.annotations.faults import STRICT_ADVICE, Faults, shown_value
from effdet.annotations.json_file import load_shown
from effdet.annotations.reading import read_file
from effdet.annotations.references import refuse_unknown
from effdet.annotations.stream import Stream


class Entries:
    """The list that a results file is."""

    def __init__(self, faults: Faults) -> None:
        self._faults, self.mended = faults, Faults(faults.file)
        self._reader = SectionReader(rows.results(), faults, self.mended)

    def read_stream(self, stream: Stream) -> None:
        """Take the entries as they come."""
        if stream.peek() == b"[":
            self._reader.read_stream(stream)
        else:
            self._refuse_root({} if stream.peek() == b"{" else load_shown(stream.value()))

    def read_value(self, value: Any) -> None:
        """Take the entries from the file's content."""
        if isinstance(value, list):
            self._reader.read_values(value)
        else:
            self._refuse_root(value)

    def columns(self) -> Columns:
        """``image_id`` ``[N]``, ``category_id`` ``[N]``, ``bbox`` ``[N, 4]``, ``score`` ``[N]``."""
        return self._reader.columns()

    def _refuse_root(self, value: Any) -> None:
        found = "an object (an annotation file?)" if isinstance(value, dict) else shown_value(value)
        self._faults.add("section", "$", "a list of entries", found)


def read_results(
    path: str | Path,
    image_ids: Iterable[int],
    category_ids: Iterable[int],
    *,
    strict: bool = False,
) -> tuple[Columns, int]:
    """The columns of a results file: image_id, category_id, bbox (x, y, width, height), score.

    Args:
        path: the file.
        image_ids: those of the ground truth.
        category_ids: likewise.
        strict: refuse what would be repaired.

    Returns:
        The columns, and the number of values that were repaired.

    Raises:
        AnnotationError: with everything that is wrong with the file.
    """
    columns, faults, mended = collect_results(path, image_ids, category_ids)
    faults.raise_if_any()
    if strict:
        mended.raise_if_any(STRICT_ADVICE)
    return columns, len(mended)


def collect_results(
    path: str | Path, image_ids: Iterable[int], category_ids: Iterable[int]
) -> tuple[Columns, Faults, Faults]:
    """As :func:`read_results`, but what is wrong with the content, and repaired, is returned."""
    faults = Faults(str(path))
    make = functools.partial(Entries, faults)
    entries = read_file(path, "results file", faults, make)
    columns = entries.columns()
    for key, kind, known in (
        ("image_id", "unknown-image", image_ids),
        ("category_id", "unknown-category", category_ids),
    ):
        refuse_unknown(key, kind, columns, np.array(sorted(known), np.int64), "", faults)
    return columns, faults, entries.mended
