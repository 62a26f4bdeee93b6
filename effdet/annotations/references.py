# SPDX-License-Identifier: Apache-2.0
"""What must hold between the rows of a file: ids that differ, and ids that something has."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.annotations.columns import Columns
from effdet.annotations.faults import Fault, Faults
from effdet.annotations.rows import NO_ID

Ids = NDArray[np.int64]

_DENSE = 16  # ids are dense where they span at most so many numbers each


def refuse_repeated(section: str, columns: Columns, faults: Faults) -> None:
    """Take every ``id`` that an earlier row of the section has as a fault."""
    ids: Ids = columns["id"]
    order = np.argsort(ids, kind="stable")
    again = np.zeros(len(ids), bool)
    again[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    again &= ids != NO_ID

    def describe(row: int) -> Fault:
        first = int(np.flatnonzero(ids == ids[row])[0])
        image = ids if section == "images" else columns.get("image_id")
        return Fault(
            kind="duplicate-id",
            place=f"{section}[{row}].id",
            expected=f"an id of its own, not that of {section}[{first}]",
            found=str(ids[row]),
            image_id=_known(image, row),
        )

    faults.add_rows(np.flatnonzero(again), describe)


def refuse_unknown(
    key: str, kind: str, columns: Columns, known: Ids, section: str, faults: Faults
) -> Ids:
    """Positions in ``known`` of the ids under ``key``; those that are not there are faults.

    Args:
        key: ``image_id`` or ``category_id``.
        kind: of the faults.
        columns: with the column ``key``.
        known: ids that are there.
        section: that of the columns; empty for a results file.
        faults: collects.
    """
    ids: Ids = columns[key]
    positions = _positions(ids, known)
    unknown = (known[positions] != ids) & (ids != NO_ID)
    what = f"{len(known):,} {PLURAL[key]} ({some(known[known != NO_ID].tolist())})"

    def describe(row: int) -> Fault:
        return Fault(
            kind=kind,
            place=f"{section}[{row}].{key}",
            expected=f"the id of one of the {what}",
            found=str(ids[row]),
            row_id=_known(columns.get("id"), row),
            image_id=None if key == "image_id" else _known(columns["image_id"], row),
        )

    faults.add_rows(np.flatnonzero(unknown), describe)
    return positions


PLURAL = {"image_id": "images", "category_id": "categories"}


def _positions(ids: Ids, known: Ids) -> Ids:
    """Position in ``known`` of each of ``ids``; any for those that are not there."""
    least, span = int(known.min()), int(known.max()) - int(known.min()) + 1
    if span <= _DENSE * len(known):  # a table is ten times as fast as a search
        table = np.zeros(span, np.int64)
        table[known - least] = np.arange(len(known))
        inside = (ids >= least) & (ids < least + span)
        return table[np.where(inside, ids - least, 0)]
    order = np.argsort(known, kind="stable")
    positions: Ids = order[np.searchsorted(known[order], ids).clip(max=len(known) - 1)]
    return positions


def some(values: Iterable[Any]) -> str:
    """The first eight of ``values`` for a message."""
    values = list(values)
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


def _known(ids: Ids | None, row: int) -> int | None:
    return None if ids is None or ids[row] == NO_ID else int(ids[row])
