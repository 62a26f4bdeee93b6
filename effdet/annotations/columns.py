# SPDX-License-Identifier: Apache-2.0
"""From rows to columns, by the fast way or, where anything is odd, by the exact one."""

import itertools
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from effdet.annotations.faults import SHOWN, Faults, shown_value
from effdet.annotations.json_file import Repeating, load_exactly
from effdet.annotations.rows import Field, Section, is_id, whole
from effdet.annotations.stream import Stream

Columns = dict[str, Any]
"""An array ``[N]`` or ``[N, 4]`` a field, a list for texts."""

_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")  # may hide a key
_TYPES: dict[str, Any] = {"bbox": np.float64, "area": np.float64, "score": np.float64}
_TEXTS = ("file_name", "name")


class SectionReader:
    """Collects the columns of one section, part by part, and what is wrong with its rows.

    Args:
        section: what is read.
        faults: collects what is wrong.
        mended: collects values of another type that have one plain meaning.
    """

    def __init__(self, section: Section, faults: Faults, mended: Faults) -> None:
        self.section, self._faults, self._mended = section, faults, mended
        self._parts: list[Columns] = []
        self._count = 0

    def read_stream(self, stream: Stream) -> None:
        """Read the list that comes next in ``stream``; its faults are collected.

        Raises:
            MalformedError: as the methods of ``stream``.
        """
        for text, rows in stream.rows(self.section.decoder):
            columns = None if rows is None else self._columns(rows)
            if columns is None or not self._has_each_key_once(text, columns):
                self.read_values(load_exactly(text))
            else:
                self._add(columns)

    def read_values(self, values: Sequence[Any]) -> None:
        """Take rows as Python objects, whatever they are; their faults are collected."""
        rows = [self._row(self._count + k, value) for k, value in enumerate(values)]
        self._add(self._columns(rows))

    def columns(self) -> Columns:
        """All that was read, a column a field; boxes are ``[N, 4]``."""
        if not self._parts:
            return self._columns([])
        joined: Columns = {}
        for field in self.section.fields:
            parts: list[Any] = [part.pop(field.key) for part in self._parts]
            if field.key in _TEXTS:
                joined[field.key] = list(itertools.chain.from_iterable(parts))
            else:
                joined[field.key] = np.concatenate(parts)
        return joined

    def _add(self, columns: Columns) -> None:
        self._parts.append(columns)
        self._count += len(columns[self.section.fields[0].key])

    def _columns(self, rows: Sequence[Any]) -> Columns:
        columns: Columns = {}
        for field in self.section.fields:
            values = map(operator.attrgetter(field.key), rows)
            if field.key in _TEXTS:
                columns[field.key] = list(values)
            elif field.key == "bbox":
                flat = np.fromiter(itertools.chain.from_iterable(values), np.float64, 4 * len(rows))
                columns[field.key] = flat.reshape(-1, 4)
            else:  # None becomes NaN
                columns[field.key] = np.array(list(values), _TYPES.get(field.key, np.int64))
        return columns

    def _has_each_key_once(self, text: bytes, columns: Columns) -> bool:
        """Whether no row of ``text`` can have a key twice, and none lacks one that it needs.

        msgspec takes the last of two. A value or an inner object may hold the same word: then the
        exact reader finds nothing wrong.
        """
        if b"\\u00" in text and _ESCAPED_ASCII.search(text):
            return False
        keys = [field.key.encode() for field in self.section.fields]
        counts = _count_texts(text, keys)
        for field in self.section.fields:
            present = number = len(columns[field.key])
            if field.missing is not None:
                present -= _count(columns[field.key], field.missing)
            if field.needed and present != number:
                return False
            if counts[field.key.encode()] != present:
                return False
        return True

    def _row(self, index: int, value: Any) -> Any:
        """A row of the section's type; what is wrong with ``value`` is collected."""
        section, faults = self.section, self._faults
        values = {field.key: field.instead for field in section.fields}
        if not isinstance(value, dict):
            faults.add("row", section.place(index), "an object", shown_value(value))
            return section.row(**values)
        about = self._about(value)
        if isinstance(value, Repeating):
            for key in value.twice:
                if key in values:
                    place = section.place(index, key)
                    faults.add("duplicate-key", place, "the key once", "it again", **about)
        for field in section.fields:
            if field.key not in value:
                if field.needed:
                    place = section.place(index, field.key)
                    faults.add("missing-field", place, field.expected, "no such key", **about)
                else:
                    values[field.key] = field.missing
                continue
            found = value[field.key]
            if found is None and field.null:
                values[field.key] = field.missing
            elif field.is_right(mended := field.mend(found)):
                values[field.key] = mended
                if mended is not found:
                    self._count_mended(index, field, found, about)
            else:
                place = section.place(index, field.key)
                faults.add(field.kind, place, field.expected, shown_value(found), **about)
        return section.row(**values)

    def _count_mended(
        self, index: int, field: Field, found: Any, about: dict[str, int | None]
    ) -> None:
        kind = "bool-iscrowd" if isinstance(found, bool) else "whole-float"
        if self._mended.counts[kind] >= SHOWN:  # may be in every row
            self._mended.counts[kind] += 1
            return
        place = self.section.place(index, field.key)
        self._mended.add(kind, place, field.expected, shown_value(found), **about)

    def _about(self, row: dict[str, Any]) -> dict[str, int | None]:
        """Ids by which a person finds the row."""
        row_id, image_id = whole(row.get("id")), whole(row.get("image_id"))
        if self.section.name == "images":
            image_id, row_id = row_id, None
        return {
            "row_id": row_id if is_id(row_id) else None,
            "image_id": image_id if is_id(image_id) else None,
        }


def _count(column: Any, value: Any) -> int:
    """How often ``value`` is in ``column``."""
    return column.count(value) if isinstance(column, list) else int((column == value).sum())


def _count_texts(json: bytes, wanted: Sequence[bytes]) -> dict[bytes, int]:
    """How often each of ``wanted`` stands in double quotes in a valid JSON text."""
    if b"\\" in json:  # a quote may be part of a text
        return {text: json.count(b'"%s"' % text) for text in wanted}
    letters = np.frombuffer(json, np.uint8)
    quotes = np.flatnonzero(letters == ord('"'))
    starts, lengths = quotes[::2] + 1, np.diff(quotes)[::2] - 1
    counts = {}
    for text in wanted:
        found = starts[lengths == len(text)]
        for k, letter in enumerate(text):
            found = found[letters[found + k] == letter]
        counts[text] = len(found)
    return counts
