# SPDX-License-Identifier: Apache-2.0
"""Which images of a data set could not be used, and how many may be so."""

from collections.abc import Iterable, Mapping

from effdet import distributed
from effdet.data.samples import Remark
from effdet.errors import DataError

NAMED = 20
"""Bad images that an error names, and notes that are told; the others are counted."""


class ImageRecord:
    """What was found of the images of one data set, each counted once however often it is met.

    Attributes:
        total: images of the data set.
        bad: index of each image that could not be used, and a line that names its file.
        notes: the same of images of which only a part was used, such as animations.
    """

    def __init__(self, total: int, max_bad: float = 0.0) -> None:
        """Begin an empty record.

        Args:
            total: images of the data set.
            max_bad: share of them, 0-1, that may be bad.
        """
        self.total, self.max_bad = total, max_bad
        self.bad: dict[int, str] = {}
        self.notes: dict[int, str] = {}
        self._told: set[int] = set()

    def add(self, remarks: Iterable[Remark]) -> None:
        """Count what was remarked.

        Raises:
            DataError: naming the first bad images and their number, where they are too many.
        """
        for remark in remarks:
            (self.bad if remark.bad else self.notes).setdefault(remark.image, remark.text)
        self.check()

    def check(self) -> None:
        """Raise DataError where too many images are bad."""
        if not self.bad or len(self.bad) / self.total <= self.max_bad:
            return
        texts = list(self.bad.values())
        if not self.max_bad:
            raise DataError(f"{texts[0]}; to go on without such images give --max-bad-images")
        more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
        raise DataError(
            f"{len(texts)} of {self.total} images cannot be used, more than --max-bad-images "
            f"{self.max_bad:g} allows: {'; '.join(texts[:NAMED])}{more}"
        )

    def news(self) -> list[str]:
        """The lines that were not given before; of the notes no more than the first few."""
        notes = dict(list(self.notes.items())[:NAMED])
        found = [(i, text) for i, text in (self.bad | notes).items() if i not in self._told]
        self._told.update(index for index, _ in found)
        return [text for _, text in found]

    def share(self) -> None:
        """Bring together what all processes have met; every process must call it.

        Raises:
            DataError: on all of them, as :meth:`add`.
        """
        gathered = distributed.gather_to_main((self.bad, self.notes))
        merged = None
        if gathered is not None:
            merged = [merge(parts) for parts in zip(*gathered, strict=True)]
        self.bad, self.notes = distributed.broadcast_from_main(merged)
        self.check()

    def restore(self, bad: Mapping[int, str]) -> None:
        """Go on from the bad images that an earlier start has met and told of."""
        self.bad = {int(index): str(text) for index, text in bad.items()}
        self._told = set(self.bad)


def merge(parts: Iterable[Mapping[int, str]]) -> dict[int, str]:
    """What several processes have met, in the order of the data set."""
    whole: dict[int, str] = {}
    for part in parts:
        whole = {**part, **whole}
    return dict(sorted(whole.items()))
