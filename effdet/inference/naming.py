# SPDX-License-Identifier: Apache-2.0
"""Harmless names, each used once, for what is written about images and videos."""

from pathlib import Path
from urllib.parse import urlsplit

from effdet.inference.addresses import is_address, shown_address
from effdet.inference.sources import AnySource
from effdet.names import file_name

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Formats that a picture keeps from its image; all others become PNG."""


class OutputNames:
    """A file name for each source and ending: the source's own, as :func:`file_name` cleans it.

    Where it was given before, it is numbered.
    """

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._names: dict[tuple[AnySource, str], str] = {}

    def picture(self, source: AnySource) -> str:
        """Of the picture drawn of an image, in the format of the image where that is usual."""
        suffix = Path(_last_part(source)).suffix
        return self.of(source, suffix if suffix.lower() in PICTURE_SUFFIXES else ".png")

    def of(self, source: AnySource, suffix: str) -> str:
        """The same name whenever it is asked for."""
        key = source, suffix
        if key not in self._names:
            self._names[key] = self._new(stem_of(source), suffix)
        return self._names[key]

    def _new(self, stem: str, suffix: str) -> str:
        name, number = file_name(stem, suffix), 1
        while name.casefold() in self._used:  # some file systems do not tell cases apart
            number += 1
            name = file_name(stem, f"_{number}{suffix}")
        self._used.add(name.casefold())
        return name


def stem_of(source: AnySource) -> str:
    """The name of a source without folders and ending, not yet harmless."""
    return Path(_last_part(source)).stem


def _last_part(source: AnySource) -> str:
    place = source.place
    if isinstance(place, Path):
        return place.name
    if is_address(place):
        parts = urlsplit(shown_address(place))
        return parts.path.rstrip("/").rpartition("/")[2] or parts.netloc
    return place  # webcam:0
