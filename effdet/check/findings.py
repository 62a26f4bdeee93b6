# SPDX-License-Identifier: Apache-2.0
"""What was found: counted by kind and split, with the first examples of each."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effdet.check.registry import KINDS, SEVERITIES, Kind, Severity

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One place where something was found.

    Attributes:
        split: its name.
        text: what is there, in a line; it may hold what files say.
        file: file name of the image, or of another file, as the annotations have it.
        annotation: id of the annotation.
        category: name of its category.
        box: xyxy in pixels, to be drawn.
        path: where the image is, to be shown.
        other: an image to be shown beside it.
    """

    split: str
    text: str
    file: str | None = None
    annotation: int | None = None
    category: str | None = None
    box: Box | None = None
    path: Path | None = None
    other: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without those that are not known."""
        values = {
            "split": self.split,
            "file": self.file,
            "annotation": self.annotation,
            "category": self.category,
            "box": None if self.box is None else [round(side, 2) for side in self.box],
            "text": self.text,
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass(kw_only=True)
class Finding:
    """All findings of one kind.

    Attributes:
        kind: what it is.
        splits: their number in each split.
        examples: the first of each split.
    """

    kind: Kind
    splits: dict[str, int] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.splits.values())


class Findings:
    """Collects findings, of each kind and split no more examples than are shown.

    Args:
        keep: examples of each kind.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._found: dict[str, Finding] = {}

    def add(self, id_: str, split: str, examples: Iterable[Example], count: int) -> None:
        """Take ``count`` findings of a kind; ``examples`` is read as far as needed."""
        if not count:
            return
        finding = self._found.setdefault(id_, Finding(kind=KINDS[id_]))
        room = self._keep - min(self._keep, finding.splits.get(split, 0))
        finding.splits[split] = finding.splits.get(split, 0) + count
        if room:
            finding.examples += [example for _, example in zip(range(room), examples, strict=False)]

    def add_rows(
        self, id_: str, split: str, rows: Iterable[int], describe: Callable[[int], Example]
    ) -> None:
        """Take a finding in each of ``rows``; only those that are shown are described."""
        numbers = [int(row) for row in rows]
        self.add(id_, split, (describe(row) for row in numbers), len(numbers))

    def sorted(self) -> list[Finding]:
        """From bad to good, in the order of the registry; examples of all splits in turn."""
        order = list(KINDS)
        found = sorted(
            self._found.values(),
            key=lambda f: (SEVERITIES.index(f.kind.severity), order.index(f.kind.id)),
        )
        for finding in found:
            finding.examples = _in_turn(finding.examples, self._keep)
        return found


def count_of(findings: Iterable[Finding], severity: Severity) -> int:
    """How many kinds of ``severity`` were found."""
    return sum(finding.kind.severity == severity for finding in findings)


def _in_turn(examples: list[Example], number: int) -> list[Example]:
    """``number`` examples, the splits taking turns."""
    ranks: dict[str, int] = {}
    ranked = []
    for order, example in enumerate(examples):
        rank = ranks[example.split] = ranks.get(example.split, -1) + 1
        ranked.append((rank, order))
    chosen = sorted(ranked)[:number]
    return [examples[order] for order in sorted(order for _, order in chosen)]
