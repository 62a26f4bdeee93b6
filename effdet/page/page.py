# SPDX-License-Identifier: Apache-2.0
"""A page of sections with text, tables, charts and pictures, as one file of HTML.

It needs no network and no JavaScript, and runs none but a few lines of its own, which sort tables:
the page's content security policy lets nothing else in. All that is put into a page is text,
escaped, but charts of :mod:`effdet.page.charts`.
"""

import base64
import functools
import hashlib
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from effdet import __version__
from effdet.errors import printable_lines
from effdet.files import replace_text

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SIDE = 640
"""Pixels of the longer side of a picture; larger ones are made smaller."""
QUALITY = 80
"""Of JPEG."""

Cell = str | int | float | None
"""What stands in a table: None is a dash."""

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart and what it shows.

    Attributes:
        svg: of a function of :mod:`effdet.page.charts`; any other text is shown as text.
        caption: how to read it.
        wide: it is as wide as it needs to be, and scrolls sideways.
    """

    svg: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A piece of a section: ``kind`` names its macro in the template."""

    kind: str
    values: dict[str, Any]


class Section:
    """A part of a page under a heading of its own.

    Attributes:
        title: the heading.
        parts: what stands in it, in order.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[_Part] = []

    def text(self, paragraph: str) -> "Section":
        """Add a paragraph."""
        return self._add("text", text=paragraph)

    def note(self, paragraph: str) -> "Section":
        """Add a paragraph that must not be overlooked."""
        return self._add("note", text=paragraph)

    def heading(self, title: str) -> "Section":
        """Begin a part of the section."""
        return self._add("heading", text=title)

    def command(self, lines: str) -> "Section":
        """Add a command to copy."""
        return self._add("command", text=lines)

    def facts(self, facts: Mapping[str, Cell]) -> "Section":
        """Add a few figures, each under its name, to be read at a glance."""
        return self._add("facts", facts=dict(facts))

    def table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        numeric: Collection[int] = (),
        caption: str = "",
    ) -> "Section":
        """Add a table, which scrolls sideways within itself.

        Args:
            header: names of the columns.
            rows: cells of each row.
            numeric: columns of numbers, from 0; they stand to the right.
            caption: how to read it.

        Raises:
            ValueError: where a row has more or fewer cells than the header.
        """
        found = [list(row) for row in rows]
        for row in found:
            if len(row) != len(header):
                raise ValueError(f"a row has {len(row)} cells, the header {len(header)}")
        values = {"header": list(header), "rows": found, "numeric": set(numeric)}
        return self._add("table", **values, caption=caption)

    def figures(self, figures: Iterable[Figure]) -> "Section":
        """Add charts, side by side where there is room."""
        return self._add("figures", figures=list(figures))

    def pictures(
        self, pictures: Iterable[tuple["Image", str]], side: int = PICTURE_SIDE
    ) -> "Section":
        """Add pictures with captions, side by side where there is room.

        Args:
            pictures: each with its caption; they are kept as JPEG.
            side: pixels that the longer side has at most; up to :data:`PICTURE_SIDE` two of them
                stand side by side on a phone too.
        """
        kept = [(_data_uri(picture, side), caption) for picture, caption in pictures]
        return self._add("pictures", pictures=kept, small=side <= PICTURE_SIDE)

    def pairs(
        self, pairs: Iterable[tuple["Image", "Image", str]], side: int = PICTURE_SIDE
    ) -> "Section":
        """Add pairs of pictures to compare, below each other where there is little room.

        Args:
            pairs: left picture, right picture and the caption of both.
            side: pixels that the longer side of each has at most.
        """
        kept = [
            (_data_uri(left, side), _data_uri(right, side), caption)
            for left, right, caption in pairs
        ]
        return self._add("pairs", pairs=kept)

    def _add(self, kind: str, **values: Any) -> "Section":
        self.parts.append(_Part(kind=kind, values=values))
        return self


class Page:
    """A page of HTML.

    Args:
        title: what the page is about.
        subtitle: a line below it.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self.sections: list[Section] = []

    def section(self, title: str, text: str = "") -> Section:
        """Begin a section, which the table of contents names.

        Args:
            title: its heading.
            text: its first paragraph.
        """
        section = Section(title)
        self.sections.append(section)
        return section.text(text) if text else section

    def html(self) -> str:
        """The whole page."""
        style, script = ((_TEMPLATES / name).read_text() for name in ("page.css", "page.js"))
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return _template().render(
            page=self,
            style=Markup(style),
            script=Markup(script),
            digest=digest,
            version=__version__,
        )

    def write(self, path: str | Path) -> None:
        """Write the page; an existing file is replaced, whole or not at all.

        Raises:
            WriteError: naming file and reason.
        """
        replace_text(path, self.html())


BEGINS = b"<!doctype html>"
"""How a page begins: what may be replaced by a new one."""


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_harmless,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pieces"] = lambda text: re.split(r"(\s+)", text)
    return environment.get_template("page.html")


def _harmless(value: object) -> object:
    """What stands in the page for ``value``: text is printable, a float has four digits."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else printable_lines(str(value))


def _data_uri(picture: "Image", side: int) -> str:
    smaller = picture.convert("RGB")
    smaller.thumbnail((side, side))
    file = io.BytesIO()
    smaller.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
