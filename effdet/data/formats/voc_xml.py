# SPDX-License-Identifier: Apache-2.0
"""One annotation file of Pascal VOC, read safely: no DOCTYPE, so no entities, and a size cap."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from xml.parsers import expat

from effdet.data.formats.building import CORNERS
from effdet.errors import DataError, one_line
from effdet.files.regular import read_regular

MAX_BYTES = 10_000_000
"""Size of an XML file that is read: tens of thousands of objects."""

MAX_DEPTH = 50
"""Elements within one another."""

ORIGIN = "coordinates"
"""Element that says how pixels are counted: ``1-based`` or ``0-based``."""


CORNER_KEYS = tuple(f"bndbox/{key}" for key in CORNERS)
"""Paths of the corners of an object."""

Start = Callable[[str, dict[str, str]], None]
End = Callable[[str], None]


class XmlFaultError(Exception):
    """What makes a file no annotation file.

    Attributes:
        kind: of the fault.
        expected: what must stand there.
        found: what does.
    """

    def __init__(self, kind: str, expected: str, found: str) -> None:
        super().__init__(found)
        self.kind, self.expected, self.found = kind, expected, found


@dataclass(kw_only=True)
class XmlFile:
    """The texts of a file that matter here, by their paths below the root.

    Attributes:
        texts: such as ``filename`` or ``size/width``.
        objects: the same for each object, such as ``name`` or ``bndbox/xmin``.
    """

    texts: dict[str, str] = field(default_factory=dict)
    objects: list[dict[str, str]] = field(default_factory=list)


def read_xml(path: Path) -> XmlFile:
    """The content of an annotation file.

    Raises:
        XmlFaultError: where it is none.
        DataError: where it cannot be read.
    """
    content = read_regular(path, "annotation file", DataError, MAX_BYTES)
    file = XmlFile()
    start, end, pieces = _collect_into(file)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = pieces.append
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise XmlFaultError("xml", "XML", one_line(error)) from error
    except (ValueError, LookupError) as error:  # of an encoding that Python does not have
        raise XmlFaultError("xml", "XML in UTF-8", one_line(error)) from error
    return file


def box_of(
    texts: dict[str, str], corners: Sequence[Any], origin: int
) -> tuple[float, float, float, float]:
    """x, y, width, height of an object from its corners, which are the numbers in its texts.

    Counted from 1 the corners are pixels that belong to the box (the devkit's definition);
    counted from 0 they are the box's edges. What has digits after the point is computed with all
    of them, so that a file that was written from such boxes gives them back.
    """
    if not all(map(float.is_integer, corners)):
        with contextlib.suppress(InvalidOperation):
            corners = [Decimal(texts[key]) for key in CORNER_KEYS]
    x, y = corners[0] - origin, corners[1] - origin
    return float(x), float(y), float(corners[2] - x), float(corners[3] - y)


def _refuse_doctype(*_: object) -> None:
    raise XmlFaultError("doctype", "XML without a DOCTYPE", "one, which may declare entities")


def _collect_into(file: XmlFile) -> tuple[Start, End, list[str]]:
    """What takes the parser's events, and the list for its texts; what is deeper is not kept.

    Functions with variables of their own: there are seventy elements a file, and methods would
    look each one up.
    """
    path: list[str] = []
    pieces: list[str] = []
    texts, objects = file.texts, file.objects

    def start(name: str, _: dict[str, str]) -> None:
        path.append(name)
        pieces.clear()
        depth = len(path)
        if depth > 2:
            if depth > MAX_DEPTH:
                expected = f"at most {MAX_DEPTH} elements within one another"
                raise XmlFaultError("xml", expected, "more")
        elif depth == 1 and name != "annotation":
            raise XmlFaultError("xml", "an <annotation> of Pascal VOC", f"<{name[:50]}>")
        elif depth == 2 and name == "object":
            objects.append({})

    def end(name: str) -> None:
        depth = len(path)
        if 2 <= depth <= 4:
            text = pieces[0] if len(pieces) == 1 else "".join(pieces)
            if depth > 2 and path[1] == "object":
                key = name if depth == 3 else f"{path[2]}/{name}"
                objects[-1].setdefault(key, text.strip())
            elif depth < 4:
                key = name if depth == 2 else f"{path[1]}/{name}"
                texts.setdefault(key, text.strip())
        pieces.clear()
        path.pop()

    return start, end, pieces
