# SPDX-License-Identifier: Apache-2.0
"""What of an annotation file is sound although the rest is not: for a look at it, not for use."""

import re

import numpy as np
from numpy.typing import NDArray

from effdet.annotations.columns import Columns
from effdet.annotations.faults import MAX_FAULTS, AnnotationError, Faults
from effdet.annotations.references import refuse_unknown
from effdet.annotations.table import (
    SECTIONS,
    AnnotationTable,
    Source,
    check_between,
    image_names,
    make_table,
    name_of_source,
    read_sections,
)

_PLACE = re.compile(r"(images|annotations|categories)\[(\d+)\](?:\.(\w+))?$")
_SIZE = ("width", "height")

Rows = dict[str, set[int]]


def salvage_annotations(source: Source) -> tuple[AnnotationTable | None, Faults]:
    """As :func:`~effdet.annotations.table.collect_annotations`, but without the rows with faults.

    An image whose size is wrong stays, as one of unknown size, and a category without a name.

    Returns:
        The table of what is sound, None where no image or no category is, and the faults, of which
        every single one is kept.
    """
    name = name_of_source(source)
    faults = Faults(name, keep=MAX_FAULTS)
    try:
        sections = read_sections(source, faults)
    except AnnotationError as error:
        if error.faults is None:  # no such file
            raise
        return None, faults
    columns = sections.columns()
    check_between(columns, sections.seen, faults)
    faults.name_images(image_names(columns["images"]))
    return take_sound(name, columns, faults, sections.mended), faults


def take_sound(
    name: str, columns: dict[str, Columns], faults: Faults, mended: Faults
) -> AnnotationTable | None:
    """The table of the rows that no fault names, and that refer to no row that one does."""
    spoilt, unsized = _rows_named(faults)
    for side in _SIZE:
        columns["images"][side][sorted(unsized)] = 0
    for section in SECTIONS:
        columns[section] = _without(columns[section], spoilt[section])
    if not len(columns["images"]["id"]) or not len(columns["categories"]["id"]):
        return None
    lost: set[int] = set()
    found = columns["annotations"]
    for key, section in (("image_id", "images"), ("category_id", "categories")):
        known = columns[section]["id"]
        positions = refuse_unknown(key, "id", found, known, "annotations", Faults(name))
        lost |= set(np.flatnonzero(known[positions] != found[key]).tolist())
        found[f"{key} position"] = positions
    columns["annotations"] = _without(found, lost)
    return make_table(name, columns, mended)


def _rows_named(faults: Faults) -> tuple[Rows, set[int]]:
    """The rows of each section that are of no use, and those of images that only lack a size."""
    spoilt: Rows = {section: set() for section in SECTIONS}
    unsized: set[int] = set()
    for fault in faults.kept:
        found = _PLACE.match(fault.place)
        if found is None:
            continue
        section, row, key = found[1], int(found[2]), found[3]
        if section == "images" and key in _SIZE:
            unsized.add(row)
        elif (section, key) != ("categories", "name"):
            spoilt[section].add(row)
    return spoilt, unsized


def _without(columns: Columns, rows: set[int]) -> Columns:
    if not rows:
        return columns
    count = len(columns["id"])
    keep: NDArray[np.bool_] = np.ones(count, bool)
    keep[sorted(rows)] = False
    return {
        key: column[keep]
        if isinstance(column, np.ndarray)
        else [value for value, kept in zip(column, keep.tolist(), strict=True) if kept]
        for key, column in columns.items()
    }
