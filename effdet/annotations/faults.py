# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an annotation or results file: all of it, counted, and told in one line."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from effdet.errors import DataError, printable, shown

SHOWN = 20
"""Faults that an error message names; the rest is counted."""

MAX_FAULTS = 100_000
"""Faults of one kind in single rows after which a file is read no further: each takes time."""

STRICT_ADVICE = " (without --strict-data these are repaired and counted)"

KINDS = {
    "syntax": "no JSON",
    "section": "wrong section",
    "row": "no object",
    "missing-field": "missing field",
    "duplicate-key": "key given twice",
    "id": "wrong id",
    "duplicate-id": "id used before",
    "unknown-image": "unknown image",
    "unknown-category": "unknown category",
    "image-size": "wrong image size",
    "file-name": "wrong file name",
    "missing-file": "missing image file",
    "link": "link out of the data folder",
    "category-name": "wrong category name",
    "box": "wrong box",
    "area": "wrong area",
    "crowd": "wrong iscrowd",
    "score": "wrong score",
    "encoding": "no text in UTF-8",
    "xml": "no XML",
    "doctype": "XML with a DOCTYPE",
    "fields": "wrong number of fields",
    "number": "wrong number",
    "class-names": "wrong class names",
    "same-name": "class name given twice",
    "class-index": "wrong class index",
    "unknown-class": "unknown class",
    "label-file": "missing label file",
    "image-file": "unreadable image",
    "no-id": "missing id",
    "no-area": "missing area",
    "no-iscrowd": "missing iscrowd",
    "whole-float": "whole number with a point",
    "bool-iscrowd": "iscrowd of true or false",
    "polygon": "polygon, of which the box is taken",
    "box-without-area": "box without area",
    "box-outside": "box outside its image",
    "box-clipped": "box partly outside its image",
}
"""Every kind of fault, a name that stays the same, and how a message calls it."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: a key of :data:`KINDS`.
        place: JSON path such as ``annotations[17].bbox``, or line and column.
        expected: what must stand there.
        found: what stands there, printable and cut.
        row_id: ``id`` of the row, where it has one.
        image_id: the image that the row belongs to, where it is known.
        image_name: its file name.
    """

    kind: str
    place: str
    expected: str
    found: str
    row_id: int | None = None
    image_id: int | None = None
    image_name: str | None = None

    def __str__(self) -> str:
        text = f"{self.place}: expected {self.expected}, found {self.found}"
        about = [] if self.row_id is None else [f"id {self.row_id}"]
        if self.image_id is not None:
            name = "" if self.image_name is None else f" {shown(self.image_name)}"
            about.append(f"image {self.image_id}{name}")
        return text + (f" ({', '.join(about)})" if about else "")


class _JsonValue:
    """Its ``repr`` has JSON's words for None, True and False, also within a short list."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        value = self._value
        if isinstance(value, list) and len(value) <= SHOWN:
            return f"[{', '.join(map(_word, value))}]"
        return _word(value)


def _word(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def shown_value(value: Any) -> str:
    """A value of a JSON file as it stands in an error message."""
    return shown(_JsonValue(value))


class AnnotationError(DataError):
    """A file that cannot be used.

    Attributes:
        faults: what is wrong with it.
    """

    def __init__(self, text: str, faults: "Faults | None" = None) -> None:
        super().__init__(text)
        self.faults = faults


class Faults:
    """Collects what is wrong with one file.

    Of each kind the first ones are kept whole and the rest is counted, so that a file with a
    million faults costs no more memory than one with twenty.

    Attributes:
        file: how messages call the file.
        counts: faults of each kind.
        kept: the first faults of each kind, in the order in which they were found.
    """

    def __init__(self, file: str, keep: int = SHOWN) -> None:
        self.file = file
        self.counts: Counter[str] = Counter()
        self.kept: list[Fault] = []
        self._keep = keep

    def __len__(self) -> int:
        return sum(self.counts.values())

    def clear(self) -> None:
        """Forget everything, to begin anew."""
        self.counts.clear()
        self.kept.clear()

    def add(
        self,
        kind: str,
        place: str,
        expected: str,
        found: str,
        *,
        row_id: int | None = None,
        image_id: int | None = None,
    ) -> None:
        """Take one fault; arguments as the attributes of :class:`Fault`.

        Raises:
            AnnotationError: where there are so many that nobody would read on.
        """
        self.counts[kind] += 1
        if self.counts[kind] <= self._keep:
            self.kept.append(
                Fault(
                    kind=kind,
                    place=place,
                    expected=expected,
                    found=found,
                    row_id=row_id,
                    image_id=image_id,
                )
            )
        if self.counts[kind] >= MAX_FAULTS:
            self.raise_if_any("; the rest of the file was not looked at")

    def add_rows(self, rows: Iterable[int], describe: Callable[[int], Fault]) -> None:
        """Take a fault of one kind in each of ``rows``; only those that are kept are described."""
        for number, row in enumerate(rows := list(rows)):
            fault = describe(int(row))
            if self.counts[fault.kind] + number >= self._keep:
                self.counts[fault.kind] += len(rows)
                return
            self.kept.append(fault)
        if rows:
            self.counts[fault.kind] += len(rows)

    def extend(self, others: "Faults") -> None:
        """Take the faults of another collection."""
        self.counts += others.counts
        self.kept += others.kept

    def name_images(self, name_of: Callable[[int], str | None]) -> None:
        """Add file names to the faults that know their image only by its id."""
        self.kept = [
            fault
            if fault.image_id is None or fault.image_name is not None
            else replace(fault, image_name=name_of(fault.image_id))
            for fault in self.kept
        ]

    def raise_if_any(self, advice: str = "") -> None:
        """Raise an :class:`AnnotationError` that names file, kinds, first faults and their number.

        Args:
            advice: what to do, at the end of the message.
        """
        if self.counts:
            raise AnnotationError(f"{printable(self.file)}: {self}{advice}", self)

    def __str__(self) -> str:
        if len(self) == 1:
            return str(self.kept[0])
        kinds = ", ".join(f"{n:,} x {KINDS[kind]}" for kind, n in self.counts.most_common())
        chosen = _fairly(self.kept, SHOWN)
        more = len(self) - len(chosen)
        start = kinds if len(self.counts) == 1 else f"{len(self):,} faults ({kinds})"
        text = f"{start}: {'; '.join(map(str, chosen))}"
        return text + (f"; and {more:,} more" if more else "")


def _fairly(faults: Sequence[Fault], number: int) -> list[Fault]:
    """At most ``number`` of ``faults``: of every kind some, so that none hides the others."""
    if len(faults) <= number:
        return list(faults)
    ranks: Counter[str] = Counter()
    ranked = []
    for order, fault in enumerate(faults):
        ranked.append((ranks[fault.kind], order))
        ranks[fault.kind] += 1
    return [faults[order] for order in sorted(order for _, order in sorted(ranked)[:number])]
