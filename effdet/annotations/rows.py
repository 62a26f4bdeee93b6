# SPDX-License-Identifier: Apache-2.0
"""The rows of the lists in COCO's files: their fields, and what each may hold.

Every rule stands here twice: as types, which msgspec decodes and checks in one pass, and as
functions, which find every fault where that pass has found one, and mend what is no fault but of
another type. tests/fuzz holds them together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

NO_ID = -(2**63)
"""In place of an annotation id that is missing."""

MAX_SIDE = 1_000_000
"""Pixels of an image's side."""

HUGE = 10**9
"""Pixels; no coordinate of an annotated box is that large."""

HUGE_FOUND = 1e40
"""The same for a found box: whatever single precision can hold is let through."""

MAX_WHOLE = 2**53
"""From here on a float may stand for another integer than the one that was meant."""

MAX_AREA = 1e18
MAX_NAME = 1000
"""Characters of a category's name."""

Id = Annotated[int, Meta(gt=NO_ID, lt=2**63 - 1)]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Pixels = Annotated[float, Meta(gt=-HUGE, lt=HUGE)]
FoundPixels = Annotated[float, Meta(gt=-HUGE_FOUND, lt=HUGE_FOUND)]
FoundSize = Annotated[float, Meta(ge=0, lt=HUGE_FOUND)]


class ImageRow(msgspec.Struct, gc=False):
    """A row of ``images``; 0 and "" where a field is missing."""

    id: Id
    width: Side = 0
    height: Side = 0
    file_name: Annotated[str, Meta(min_length=1)] = ""


class CategoryRow(msgspec.Struct, gc=False):
    """A row of ``categories``; "" where the name is missing."""

    id: Id
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)] = ""


class AnnotationRow(msgspec.Struct, gc=False):
    """A row of ``annotations``; below 0 where a field is missing, None for an area of ``null``."""

    image_id: Id
    category_id: Id
    bbox: tuple[Pixels, Pixels, Pixels, Pixels]
    id: Id = NO_ID
    area: Annotated[float, Meta(ge=0, lt=MAX_AREA)] | None = -1.0
    iscrowd: Annotated[int, Meta(ge=0, le=1)] = -1


class ResultRow(msgspec.Struct, gc=False):
    """An entry of a results file."""

    image_id: Id
    category_id: Id
    bbox: tuple[FoundPixels, FoundPixels, FoundSize, FoundSize]
    score: float


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a row.

    Attributes:
        key: its name.
        kind: kind of the fault where it is wrong.
        expected: what it must be, in words.
        is_right: whether a value is that.
        instead: what stands in its place where it is wrong.
        missing: what stands in its place where it is missing; None: the row's type has none.
        needed: whether it must be there.
        null: whether ``null`` is as if it were missing.
        mend: what a value of another type means, or the value itself.
    """

    key: str
    kind: str
    expected: str
    is_right: Callable[[Any], bool]
    instead: Any
    missing: Any = None
    needed: bool = True
    null: bool = False
    mend: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, kw_only=True)
class Section:
    """A list of rows.

    Attributes:
        name: its key; empty for the list that a results file is.
        row: type of its rows.
        fields: what is read of a row.
        decoder: of a list of such rows.
    """

    name: str
    row: type[Any]
    fields: tuple[Field, ...]
    decoder: "msgspec.json.Decoder[Any]"

    def place(self, index: int, key: str = "") -> str:
        """JSON path of a row, or of a field of it."""
        return f"{self.name}[{index}]" + (f".{key}" if key else "")


def is_id(value: Any) -> bool:
    """Whether ``value`` is an integer of 64 bits (without the outermost two)."""
    return type(value) is int and NO_ID < value < 2**63 - 1


def whole(value: Any) -> Any:
    """A whole number that is written with a point, as pandas does, as an integer; others stay."""
    if type(value) is float and abs(value) < MAX_WHOLE and value.is_integer():
        return int(value)
    return value


def is_number(value: Any, least: float = -math.inf, below: float = math.inf) -> bool:
    """Whether ``value`` is a finite number, no truth value, in ``[least, below)``."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and least <= value < below
    except OverflowError:  # an integer beyond the range of a float
        return False


def is_box(value: Any) -> bool:
    """Whether ``value`` is four numbers that may be an annotated box."""
    return _is_list_of_4(value) and all(is_number(v, -HUGE, HUGE) and v > -HUGE for v in value)


def is_found_box(value: Any) -> bool:
    """Whether ``value`` is four numbers that may be a found box, its sizes not negative."""
    return (
        _is_list_of_4(value)
        and all(is_number(v, -HUGE_FOUND, HUGE_FOUND) and v > -HUGE_FOUND for v in value)
        and all(v >= 0 for v in value[2:])
    )


def _is_list_of_4(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4


def _is_text(value: Any, longest: float = math.inf) -> bool:
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        return False
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _crowd(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else whole(value)


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIDE


_BOX = "4 finite numbers (x, y, width, height)"
_AN_ID = "an integer of 64 bits"
_SIDE = f"a whole number of pixels from 1 to {MAX_SIDE:,}"


def _id(key: str) -> Field:
    return Field(key=key, kind="id", expected=_AN_ID, is_right=is_id, instead=NO_ID, mend=whole)


def images(*, with_files: bool) -> Section:
    """The section of images; ``with_files``, each must have its size and file name."""
    sides = [
        Field(
            key=key,
            kind="image-size",
            expected=_SIDE,
            is_right=_is_side,
            instead=MAX_SIDE,
            missing=0,
            needed=with_files,
            mend=whole,
        )
        for key in ("width", "height")
    ]
    name = Field(
        key="file_name",
        kind="file-name",
        expected="a text",
        is_right=_is_text,
        instead="",
        missing="",
        needed=with_files,
    )
    decoder = msgspec.json.Decoder(list[ImageRow])
    fields = (_id("id"), *sides, name)
    return Section(name="images", row=ImageRow, fields=fields, decoder=decoder)


def categories(*, with_names: bool) -> Section:
    """The section of categories; ``with_names``, each must have a name."""
    name = Field(
        key="name",
        kind="category-name",
        expected=f"a text of 1 to {MAX_NAME:,} characters",
        is_right=lambda value: _is_text(value, MAX_NAME),
        instead="?",
        missing="",
        needed=with_names,
    )
    decoder = msgspec.json.Decoder(list[CategoryRow])
    return Section(name="categories", row=CategoryRow, fields=(_id("id"), name), decoder=decoder)


def annotations() -> Section:
    """The section of annotations."""
    fields = (
        replace(_id("id"), missing=NO_ID, needed=False, null=True),
        _id("image_id"),
        _id("category_id"),
        Field(
            key="bbox",
            kind="box",
            expected=f"{_BOX} below {HUGE:,} pixels",
            is_right=is_box,
            instead=(0.0, 0.0, 1.0, 1.0),
        ),
        Field(
            key="area",
            kind="area",
            expected="a finite number, 0 or more",
            is_right=lambda value: value is None or is_number(value, 0, MAX_AREA),
            instead=0.0,
            missing=-1.0,
            needed=False,
        ),
        Field(
            key="iscrowd",
            kind="crowd",
            expected="0 or 1",
            is_right=lambda value: type(value) is int and value in (0, 1),
            instead=0,
            missing=-1,
            needed=False,
            null=True,
            mend=_crowd,
        ),
    )
    decoder = msgspec.json.Decoder(list[AnnotationRow])
    return Section(name="annotations", row=AnnotationRow, fields=fields, decoder=decoder)


def results() -> Section:
    """The list that a results file is."""
    fields = (
        _id("image_id"),
        _id("category_id"),
        Field(
            key="bbox",
            kind="box",
            expected=f"{_BOX}, the sizes 0 or more",
            is_right=is_found_box,
            instead=(0.0, 0.0, 1.0, 1.0),
        ),
        Field(
            key="score",
            kind="score",
            expected="a finite number",
            is_right=is_number,
            instead=0.0,
        ),
    )
    decoder = msgspec.json.Decoder(list[ResultRow])
    return Section(name="", row=ResultRow, fields=fields, decoder=decoder)
