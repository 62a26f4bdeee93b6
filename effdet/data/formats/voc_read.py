# SPDX-License-Identifier: Apache-2.0
"""The annotations of a split in Pascal VOC XML.

VOC numbers pixels from 1 and both corners belong to the box: x = xmin - 1, width = xmax - xmin + 1.
Exporters such as Roboflow and CVAT write edges from 0 instead. A 0, which VOC cannot have, in any
``xmin`` or ``ymin`` of the data set shows that; then x = xmin and width = xmax - xmin. A file may
say it itself: ``<coordinates>1-based</coordinates>``.
"""

from pathlib import Path

import numpy as np

from effdet.annotations import (
    AnnotationTable,
    FileLooker,
    fault_of_name,
    links,
    refuse_way_out,
)
from effdet.annotations.table import Ids
from effdet.data.formats.building import (
    CORNERS,
    Reading,
    Rows,
    build_table,
    check_and_size,
    corners_written,
)
from effdet.data.formats.class_ids import ids_of, is_name, names_for
from effdet.data.formats.text_fields import number, side
from effdet.data.formats.voc import XmlFiles, images_in, opened_by, other_xml_files, xml_files_of
from effdet.data.formats.voc_xml import (
    CORNER_KEYS,
    ORIGIN,
    XmlFaultError,
    XmlFile,
    box_of,
    read_xml,
)
from effdet.errors import DataError, shown

ORIGINS = {"1-based": 1, "0-based": 0}


def read(reading: Reading) -> AnnotationTable | None:
    """The table of a split; None where there are faults, unless what is sound is to be salvaged."""
    files, faults = reading.files, reading.faults
    if any(refuse_way_out(path, reading.within(path), faults) for path in opened_by(files)):
        return None
    xml = xml_files_of(files)
    reader = _Reader(reading, xml)
    for number_in_list, stem in enumerate(xml.stems, start=1):
        reader.take(stem, number_in_list)
    if not xml.stems:
        faults.add("section", str(xml.list_file or xml.labels), "at least one image", "none")
    names, counts_from_0 = set(reader.rows.classes), reader.counts_from_0
    for other in other_xml_files(files):
        more, zero = _survey(other, reading.within(other.labels))
        names |= more
        counts_from_0 |= zero
    places = [f"{stem}.xml" for stem in reader.stems]
    sizes = check_and_size(reader.rows, reading, places.__getitem__)
    order = names_for(reader.rows.classes, names, reading.class_map)
    ids = ids_of(order, reading.class_map, 1, reader.first_places.__getitem__, faults)
    if not order:
        faults.add("section", str(xml.labels), "at least one object", "none: no class is known")
    if reading.ends(reader.rows.files, order):
        return None
    return reader.table(sizes, 0 if counts_from_0 else 1, order, ids)


class _Reader:
    """Collects the objects of a split's files."""

    def __init__(self, reading: Reading, xml: XmlFiles) -> None:
        self.rows, self.stems = Rows(), list[str]()
        self.counts_from_0, self.first_places = False, dict[str, str]()
        self._xml, self._faults = xml, reading.faults
        self._images = images_in(reading.files.images)
        self._look = FileLooker(xml.labels, reading.within(xml.labels))
        self._objects: list[tuple[dict[str, str], list[float | None]]] = []
        self._origins: list[int | None] = []

    def take(self, stem: str, line: int) -> None:
        """Read the file of one image."""
        if (reason := fault_of_name(f"{stem}.xml")) is not None:
            place = f"{self._xml.list_file}:{line}"
            self._faults.add("file-name", place, "the name of an image", f"{reason}: {shown(stem)}")
            return
        kind, reason = self._look.fault_of_file(f"{stem}.xml")
        if kind:
            place = f"{self._xml.list_file}:{line}" if self._xml.list_file else f"{stem}.xml"
            if kind == "missing-file":
                self._faults.add("label-file", place, f"{stem}.xml in {self._xml.labels}", reason)
            else:
                self._faults.add(kind, place, links.EXPECTED, reason)
            return
        try:
            content = read_xml(self._xml.labels / f"{stem}.xml")
        except XmlFaultError as fault:
            self._faults.add(fault.kind, f"{stem}.xml", fault.expected, fault.found)
            return
        except DataError as error:
            self._faults.add("xml", f"{stem}.xml", "a file that can be read", str(error))
            return
        self._take(stem, content)

    def _take(self, stem: str, content: XmlFile) -> None:
        rows, texts = self.rows, content.texts
        self.stems.append(stem)
        rows.files.append(self._image_of(stem, texts.get("filename", "")))
        height, width = (
            side(texts.get(key), f"{stem}.xml {key}", self._faults)
            for key in ("size/height", "size/width")
        )
        rows.sizes.append((height, width))
        origin = ORIGINS.get(texts.get(ORIGIN, ""))
        for line, found in enumerate(content.objects, start=1):
            corners = _corners(found)
            if self._is_sound(f"{stem}.xml object {line}", found, corners):
                crowd = found.get("difficult", "0") == "1"
                self.first_places.setdefault(found["name"], f"{stem}.xml object {line} name")
                labels = [rows.label_of(found["name"])]
                rows.add_boxes(len(rows.files) - 1, labels, [(0, 0, 0, 0)], [line], crowd)
                self._objects.append((found, corners))
                self._origins.append(origin)
                self.counts_from_0 |= origin is None and 0 in corners[:2]

    def _image_of(self, stem: str, file_name: str) -> str:
        """The image of the same name; the one that the file names where there is none or two."""
        found = self._images.get(stem, [])
        if len(found) == 1 or file_name in found:
            return file_name if file_name in found else found[0]
        if len(found) > 1:
            self._faults.add(
                "file-name", f"{stem}.xml filename", f"one of {', '.join(found)}", shown(file_name)
            )
            return found[0]
        return file_name or f"{stem}.jpg"

    def _is_sound(self, place: str, texts: dict[str, str], corners: list[float | None]) -> bool:
        stated = texts.get("difficult", "0") in ("0", "1")
        if stated and None not in corners and is_name(texts.get("name")):
            return True
        faults = self._faults
        before = len(faults)
        if not is_name(name := texts.get("name")):
            faults.add("category-name", f"{place} name", "a text", shown(name or "nothing"))
        for key, corner in zip(CORNERS, corners, strict=True):
            if corner is None:
                text = texts.get(f"bndbox/{key}")
                found = "nothing" if text is None else shown(text)
                faults.add("box", f"{place} bndbox/{key}", "a finite number of pixels", found)
        if texts.get("difficult", "0") not in ("0", "1"):
            faults.add("crowd", f"{place} difficult", "0 or 1", shown(texts["difficult"]))
        return len(faults) == before

    def table(
        self,
        sizes: Ids,
        origin: int,
        order: list[str],
        ids: Ids,
    ) -> AnnotationTable:
        """The table, with classes in ``order`` and pixels counted from ``origin``."""
        rows = self.rows
        rows.sort_classes(order)
        origins = [origin if stated is None else stated for stated in self._origins]
        pairs = zip(self._objects, origins, strict=True)
        rows.boxes = [box_of(texts, corners, origin) for (texts, corners), origin in pairs]
        boxes = rows.box_array()
        start = boxes[:, :2] + np.array(origins, np.float64).reshape(-1, 1)
        written = corners_written(np.concatenate([start, boxes[:, :2] + boxes[:, 2:]], axis=1))
        images, lines = np.array(rows.images, np.int64), np.array(rows.lines, np.int64)
        stems = self.stems

        def where(row: int) -> str:
            return f"{stems[images[row]]}.xml object {lines[row]}"

        name = self._faults.file
        return build_table(name, rows, sizes, boxes, ids, tuple(order), where, written)


def _survey(xml: XmlFiles, within: Path | None) -> tuple[set[str], bool]:
    """Class names of other files of the data set, and whether their pixels are counted from 0.

    What is wrong with them is told where their own split is read.
    """
    names, zero = set(), False
    look = FileLooker(xml.labels, within)
    for stem in xml.stems:
        if fault_of_name(f"{stem}.xml") is not None or look.fault_of_file(f"{stem}.xml")[0]:
            continue
        try:
            content = read_xml(xml.labels / f"{stem}.xml")
        except (XmlFaultError, DataError):
            continue
        names |= {name for found in content.objects if is_name(name := found.get("name"))}
        if ORIGIN not in content.texts:
            zero |= any(0 in _corners(found)[:2] for found in content.objects)
    return {name for name in names if name is not None}, zero


def _corners(texts: dict[str, str]) -> list[float | None]:
    """The corners of an object; None for what is no number."""
    return [number(texts.get(key, "")) for key in CORNER_KEYS]
