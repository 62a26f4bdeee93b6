# SPDX-License-Identifier: Apache-2.0
"""Predictions in COCO's results format."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effdet.annotations import read_annotations
from effdet.data.transforms import size_of
from effdet.errors import DataError, UsageError
from effdet.inference.outputs import Output, describe
from effdet.inference.reading import Picture
from effdet.inference.sources import AnySource, VideoSource
from effdet.names import json_text
from effdet.structures import ClassMap, Detections


class JsonList:
    """A JSON file with one list that is written item by item.

    Args:
        path: the file.
        before: what stands before the list, such as ``{"images": ``.
        after: what stands after it.
    """

    def __init__(self, path: Path, before: str = "", after: str = "") -> None:
        self._after, self._is_empty = after, True
        self._file = path.open("w", encoding="utf-8")
        self._file.write(before + "[")

    def add(self, value: Mapping[str, Any]) -> None:
        """Append an item."""
        self._file.write(("\n" if self._is_empty else ",\n") + json_text(value, indent=None))
        self._is_empty = False

    def close(self) -> None:
        """End the list and the file."""
        with contextlib.closing(self._file):
            self._file.write("\n]" + self._after + "\n")


class Coco(Output):
    """``coco_results.json`` and, where the images have no ids yet, ``coco_images.json``.

    The latter is an annotation file without annotations, which pycocotools loads the results into.

    Args:
        folder: where to write.
        class_map: gives the category ids.
        image_ids: ids of the images; None numbers images and frames from 1.
    """

    def __init__(
        self, folder: Path, class_map: ClassMap, image_ids: Mapping[AnySource, int] | None
    ) -> None:
        self._folder, self._class_map, self._image_ids = folder, class_map, image_ids
        self._results: JsonList | None = None
        self._images: JsonList | None = None
        self._count = 0

    def add(self, picture: Picture, found: Detections) -> None:
        """Append an image, where it has no id yet, and its detections."""
        if self._results is None:
            self._results = JsonList(self._folder / "coco_results.json")
        image_id = self._image_id(picture)
        for row in describe(found, self._class_map):
            x1, y1, x2, y2 = row["box"]
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            ids = {"image_id": image_id, "category_id": row["category_id"]}
            self._results.add({**ids, "bbox": box, "score": row["score"]})

    def _image_id(self, picture: Picture) -> int:
        if self._image_ids is not None:
            return self._image_ids[picture.source]
        if self._images is None:
            path = self._folder / "coco_images.json"
            self._images = JsonList(path, '{"images": ', self._after_images())
        self._count += 1
        height, width = size_of(picture.image)
        image = {"id": self._count, "file_name": str(picture.source)}
        image |= {"width": width, "height": height}
        if picture.frame is not None:
            image["frame"] = picture.frame
        self._images.add(image)
        return self._count

    def _after_images(self) -> str:
        ids, names = self._class_map.category_ids, self._class_map.names
        categories = [{"id": ids[i], "name": names[i]} for i in self._class_map.named]
        text = json_text(categories, indent=None)
        return f',\n"annotations": [],\n"categories": {text}}}'

    def close(self) -> None:
        """End the files."""
        for file in (self._results, self._images):
            if file is not None:
                file.close()


def find_image_ids(sources: Sequence[AnySource], annotations: str | Path) -> dict[AnySource, int]:
    """The id of each image in a COCO annotation file.

    A file is the image whose ``file_name`` its path ends with.

    Raises:
        UsageError: for videos, which have no ids.
        DataError: for an image that is not in the file, or is more than one of it.
    """
    table = read_annotations(annotations, with_images=False)
    by_name: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for name, image_id in zip(table.file_names, table.image_ids.tolist(), strict=True):
        parts = Path(name).parts
        if parts:
            by_name.setdefault(parts[-1], []).append((parts, image_id))
    ids: dict[AnySource, int] = {}
    for source in sources:
        if isinstance(source, VideoSource) or not isinstance(source.place, Path):
            raise UsageError(f"{source}: --annotations has ids of image files only")
        path = source.place.parts
        found = [i for parts, i in by_name.get(path[-1], []) if path[-len(parts) :] == parts]
        if len(found) != 1:
            number = "no image" if not found else f"{len(found)} images"
            raise DataError(f"{annotations}: there is {number} for the file {source} in it")
        ids[source] = found[0]
    return ids
