# SPDX-License-Identifier: Apache-2.0
"""One way into the table for every format."""

from collections.abc import Callable
from dataclasses import replace

from effdet.annotations import (
    AnnotationError,
    AnnotationTable,
    Faults,
    collect_annotations,
    refuse_way_out,
    salvage_annotations,
)
from effdet.annotations.faults import MAX_FAULTS
from effdet.data.formats import csv_read, voc_read, yolo_read
from effdet.data.formats.building import Reading
from effdet.data.formats.split import Format, SplitFiles
from effdet.errors import DataError, printable
from effdet.structures import ClassMap

Reader = Callable[[Reading], AnnotationTable | None]
"""Gives the table of a split; None where there are faults, unless what is sound is salvaged."""

READERS: dict[Format, Reader] = {
    "voc": voc_read.read,
    "yolo": yolo_read.read,
    "csv": csv_read.read,
}


def read_split(
    files: SplitFiles, class_map: ClassMap | None = None, *, follow_links: bool = False
) -> AnnotationTable:
    """Read and check the annotations of a split.

    Args:
        files: where they are.
        class_map: classes of a model, for formats without ids: names get their ids.
        follow_links: read files that a link leads to outside of the data folder.

    Raises:
        AnnotationError: with everything that is wrong: the file, the place in it, what must stand
            there and what does.
    """
    table, faults = collect_split(files, class_map, follow_links=follow_links)
    faults.raise_if_any()
    assert table is not None
    return table


def collect_split(
    files: SplitFiles, class_map: ClassMap | None = None, *, follow_links: bool = False
) -> tuple[AnnotationTable | None, Faults]:
    """As :func:`read_split`, but what is wrong with the content is returned.

    Returns:
        The table, None where there are faults, and the faults.

    Raises:
        AnnotationError: where a file cannot be read at all, or its faults are too many.
    """
    faults = Faults(str(files.annotations))
    return _read(
        Reading(files=files, class_map=class_map, faults=faults, follow_links=follow_links)
    )


def salvage_split(
    files: SplitFiles, *, follow_links: bool = False
) -> tuple[AnnotationTable | None, Faults]:
    """As :func:`collect_split`, with a table of what is sound although there are faults.

    It is for a look at the data, not for use. Every single fault is kept.

    Raises:
        AnnotationError: where a file cannot be read at all, or its faults are too many.
    """
    faults = Faults(str(files.annotations), keep=MAX_FAULTS)
    return _read(
        Reading(files=files, class_map=None, faults=faults, follow_links=follow_links, salvage=True)
    )


def _read(reading: Reading) -> tuple[AnnotationTable | None, Faults]:
    files, faults = reading.files, reading.faults
    for path in (files.annotations, files.images, *files.siblings):
        if refuse_way_out(path, reading.within(path), faults):
            return None, faults
    try:
        if files.format == "coco":
            read_json = salvage_annotations if reading.salvage else collect_annotations
            table, faults = read_json(files.annotations)
        else:
            table = READERS[files.format](reading)
    except DataError as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(str(error)) from error
    except OSError as error:
        name = printable(str(error.filename or files.annotations))
        raise AnnotationError(f"{name}: cannot be read: {error.strerror or error}") from error
    if table is not None:
        table = replace(table, data_folder=files.within(files.images, follow_links=False))
    return table, faults
