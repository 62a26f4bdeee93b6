# SPDX-License-Identifier: Apache-2.0
"""A COCO annotation file, read and checked once for all who use it."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.annotations import rows
from effdet.annotations.columns import Columns, SectionReader
from effdet.annotations.faults import Faults, shown_value
from effdet.annotations.json_file import load_shown
from effdet.annotations.reading import read_file
from effdet.annotations.references import refuse_repeated, refuse_unknown
from effdet.annotations.stream import Stream
from effdet.structures import ClassMap

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Source = str | Path | Mapping[str, Any]
"""A COCO annotation file, or its content."""

SECTIONS = ("images", "annotations", "categories")


class Names(Sequence[str]):
    """Texts in one flat array, which worker processes can share.

    A plain array of texts would take the room of the longest for each.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        """All texts, faster than one by one."""
        joined, start = self._bytes.tobytes(), 0
        for end in self._ends.tolist():
            yield joined[start:end].decode("utf-8", "surrogatepass")
            start = end

    def __getitem__(self, index: Any) -> Any:
        """The text at ``index``."""
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotationTable:
    """What an annotation file says of ``N`` images, ``K`` categories and ``M`` annotations.

    Rows are in the file's order, boxes are as they are written there.

    Attributes:
        name: how messages call the file.
        image_ids: ``[N]``.
        sizes: ``[N, 2]`` (height, width) in pixels, 0 where the file does not say.
        file_names: ``[N]``, empty where the file does not say.
        category_ids: ``[K]``.
        category_names: ``[K]``, empty where the file does not say.
        ids: ``[M]`` ids of the annotations, ``NO_ID`` where they have none.
        image_index: ``[M]`` position of the image in ``image_ids``.
        category_index: ``[M]`` position of the category in ``category_ids``.
        boxes: ``[M, 4]`` x, y, width, height in pixels.
        areas: ``[M]`` square pixels; that of the box where the file does not say.
        crowd: ``[M]``, which are crowd regions; without ``iscrowd`` none is.
        filled: kind of fault -> rows whose missing field was filled in.
        mended: values of another type, such as ``1.0`` for 1, in any section.
        where: says where an annotation stands, in formats other than JSON.
        written: gives the box of an annotation as its file has it, in formats other than JSON.
        data_folder: the folder that links of image files must stay in; None: the image folder.
    """

    name: str
    image_ids: Ids
    sizes: NDArray[np.int64]
    file_names: Names
    category_ids: Ids
    category_names: tuple[str, ...]
    ids: Ids
    image_index: Ids
    category_index: Ids
    boxes: Floats
    areas: Floats
    crowd: NDArray[np.bool_]
    filled: dict[str, NDArray[np.int64]]
    mended: Faults
    where: Callable[[int], str] | None = None
    written: Callable[[int], str] | None = None
    data_folder: Path | None = None

    def place(self, row: int, key: str) -> str:
        """Where a field of an annotation stands, for messages."""
        return f"annotations[{row}].{key}" if self.where is None else self.where(row)

    def class_map(self) -> ClassMap:
        """The classes: the categories in rising order of their ids."""
        pairs = zip(self.category_ids.tolist(), self.category_names, strict=True)
        return ClassMap.from_categories({"id": i, "name": name} for i, name in pairs)


def read_annotations(source: Source, *, with_images: bool = True) -> AnnotationTable:
    """Read and check an annotation file, or its content.

    Args:
        source: the file, or what is in it.
        with_images: the images are to be read as well, so that all must have file name and size,
            and categories names; figures alone need neither.

    Raises:
        AnnotationError: with everything that is wrong: the file, the place in it, what must stand
            there and what does.
    """
    table, faults = collect_annotations(source, with_images=with_images)
    faults.raise_if_any()
    assert table is not None
    return table


def collect_annotations(
    source: Source, *, with_images: bool = True
) -> tuple[AnnotationTable | None, Faults]:
    """As :func:`read_annotations`, but what is wrong with the content is returned.

    Returns:
        The table, None where there are faults, and the faults.

    Raises:
        AnnotationError: where there is no such file, it cannot be read, or its faults are too many.
    """
    faults = Faults(name_of_source(source))
    return collect(read_sections(source, faults, with_images=with_images), faults), faults


def name_of_source(source: Source) -> str:
    """How messages call an annotation file, or its content."""
    return "ground truth" if isinstance(source, Mapping) else str(source)


def read_sections(source: Source, faults: Faults, *, with_images: bool = True) -> "Sections":
    """The lists of an annotation file; what is wrong with single rows goes to ``faults``."""
    if isinstance(source, Mapping):
        sections = Sections(faults, with_images)
        sections.read_value(source)
        return sections
    make = functools.partial(Sections, faults, with_images)
    return read_file(source, "annotation file", faults, make)


def collect(sections: "Sections", faults: Faults) -> AnnotationTable | None:
    """The table of what was read, after the checks that no row can be put to alone."""
    columns = sections.columns()
    check_between(columns, sections.seen, faults)
    for found in (faults, sections.mended):
        found.name_images(image_names(columns["images"]))
    return None if len(faults) else make_table(faults.file, columns, sections.mended)


class Sections:
    """The three lists of an annotation file."""

    def __init__(self, faults: Faults, with_images: bool) -> None:
        self._faults, self.mended = faults, Faults(faults.file)
        sections = (
            rows.images(with_files=with_images),
            rows.annotations(),
            rows.categories(with_names=with_images),
        )
        self._readers = {
            section.name: SectionReader(section, faults, self.mended) for section in sections
        }
        self.seen: set[str] = set()

    def columns(self) -> dict[str, Columns]:
        """The columns of every section."""
        return {name: reader.columns() for name, reader in self._readers.items()}

    def read_stream(self, stream: Stream) -> None:
        """Take the sections as they come, whatever else stands between them."""
        if stream.peek() != b"{":
            self._refuse_root([] if stream.peek() == b"[" else load_shown(stream.value()))
            return
        for key in stream.object_keys():
            if key not in self._readers:
                stream.skip()
                continue
            if key in self.seen:
                self._faults.add("duplicate-key", key, "the key once", "it again")
            self.seen.add(key)
            if stream.peek() == b"[":
                self._readers[key].read_stream(stream)
            else:
                self._refuse_section(key, load_shown(stream.value()))
        self._refuse_missing()

    def read_value(self, value: Any) -> None:
        """Take the sections from a file's content."""
        if not isinstance(value, Mapping):
            self._refuse_root(value)
            return
        for key, reader in self._readers.items():
            if key in getattr(value, "twice", ()):
                self._faults.add("duplicate-key", key, "the key once", "it again")
            if isinstance(value.get(key), list):
                reader.read_values(value[key])
            elif key in value:
                self._refuse_section(key, value[key])
        self.seen |= {key for key in self._readers if key in value}
        self._refuse_missing()

    def _refuse_root(self, value: Any) -> None:
        found = "a list (a results file?)" if isinstance(value, list) else shown_value(value)
        self._faults.add("section", "$", f"an object with {', '.join(self._readers)}", found)

    def _refuse_section(self, key: str, value: Any) -> None:
        self._faults.add("section", key, "a list", shown_value(value))

    def _refuse_missing(self) -> None:
        for key in self._readers:  # the files of COCO's test sets have no annotations
            if key not in self.seen and key != "annotations":
                self._faults.add("section", key, "a list", "no such key")


def check_between(columns: dict[str, Columns], seen: set[str], faults: Faults) -> None:
    """What no row shows alone: empty sections, ids used twice, and ids that nothing has.

    What references point at becomes a column of its own.
    """
    if not seen:
        return
    ids = {name: columns[name]["id"] for name in SECTIONS}
    for name in SECTIONS:
        refuse_repeated(name, columns[name], faults)
    rows_of = columns["annotations"]
    for name, key, kind in (
        ("images", "image_id", "unknown-image"),
        ("categories", "category_id", "unknown-category"),
    ):
        if name in seen and not len(ids[name]) and not faults.counts["section"]:
            faults.add("section", name, "at least one row", "an empty list")
        elif len(ids[name]):
            positions = refuse_unknown(key, kind, rows_of, ids[name], "annotations", faults)
            rows_of[f"{key} position"] = positions


def image_names(columns: Columns) -> Callable[[int], str | None]:
    """Finds an image's file name by its id."""
    names = columns["file_name"]

    def name_of(image_id: int) -> str | None:
        found = np.flatnonzero(columns["id"] == image_id)
        return (names[int(found[0])] or None) if len(found) else None

    return name_of


def make_table(name: str, columns: dict[str, Columns], mended: Faults) -> AnnotationTable:
    """The table of columns in which nothing is wrong."""
    images, found, classes = (columns[section] for section in SECTIONS)
    boxes, areas = found["bbox"], found["area"]
    filled = {
        "no-id": found["id"] == rows.NO_ID,
        "no-area": np.isnan(areas) | (areas == -1),
        "no-iscrowd": found["iscrowd"] == -1,
    }
    return AnnotationTable(
        name=name,
        image_ids=images["id"],
        sizes=np.stack([images["height"], images["width"]], axis=1),
        file_names=Names(images["file_name"]),
        category_ids=classes["id"],
        category_names=tuple(classes["name"]),
        ids=found["id"],
        image_index=found["image_id position"],
        category_index=found["category_id position"],
        boxes=boxes,
        # Converted files often leave it out; for boxes it is their own area.
        areas=np.where(filled["no-area"], boxes[:, 2] * boxes[:, 3], areas),
        crowd=found["iscrowd"] == 1,
        filled={kind: np.flatnonzero(mask) for kind, mask in filled.items()},
        mended=mended,
    )
