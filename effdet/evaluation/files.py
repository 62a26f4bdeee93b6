# SPDX-License-Identifier: Apache-2.0
"""COCO's two files, ground truth and results, as evaluation needs them.

Category ids and (x, y, width, height) boxes are COCO's; the rest of the package knows class indices
and xyxy boxes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effdet.annotations import (
    AnnotationTable,
    read_annotations,
    read_results,
    refuse_repairs,
    scorable,
)
from effdet.annotations import Source as FileOrContent
from effdet.annotations.table import Floats, Ids

Source = FileOrContent | AnnotationTable
"""A COCO annotation file, its content, or what was read of it before."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """An annotation file without what evaluation does not need.

    Attributes:
        name: how error messages call it.
        image_ids: ids of all images.
        categories: id -> name, in rising order of id.
        annotations: rows for COCOeval, numbered from 1 since it takes the id 0 for "no match".
        num_left_out: annotations of negative width or height.
        num_mended: values of another type that were read as the number they mean.
    """

    name: str
    image_ids: frozenset[int]
    categories: dict[int, str]
    annotations: list[dict[str, Any]]
    num_left_out: int = 0
    num_mended: int = 0

    @classmethod
    def load(cls, source: "Source | GroundTruth", *, strict: bool = False) -> "GroundTruth":
        """Read and check an annotation file, or its content; one that is read already stays.

        Boxes stay as they are written. Only those of a negative width or height, which COCO's
        figures are not defined for, are left out and counted.

        Args:
            source: the file, its content, or what was read of it before.
            strict: refuse what would be repaired.

        Raises:
            DataError: for a file that cannot be read, or values that cannot be right: the file,
                the places in it and the values.
        """
        if isinstance(source, GroundTruth):
            return source
        if not isinstance(source, AnnotationTable):
            source = read_annotations(source, with_images=False)
        mask = scorable(source)
        if strict:
            refuse_repairs(source, {"box-without-area": ~mask})
        pairs = zip(source.category_ids.tolist(), source.category_names, strict=True)
        return cls(
            name=source.name,
            image_ids=frozenset(source.image_ids.tolist()),
            categories={i: name or str(i) for i, name in sorted(pairs)},
            annotations=_rows(source, np.flatnonzero(mask)),
            num_left_out=int((~mask).sum()),
            num_mended=len(source.mended),
        )

    def to_coco(self) -> dict[str, Any]:
        """The content in COCO's form."""
        return {
            "images": [{"id": image_id} for image_id in sorted(self.image_ids)],
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
            "annotations": [dict(row) for row in self.annotations],  # COCOeval writes into them
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """Detections of many images in COCO's conventions; iterating gives a results file's entries.

    Attributes:
        image_ids: ``[N]``.
        category_ids: ``[N]``, the data set's own ids.
        boxes: ``[N, 4]`` (x, y, width, height) in pixels of the original image.
        scores: ``[N]``.
    """

    image_ids: Ids
    category_ids: Ids
    boxes: Floats
    scores: Floats

    @classmethod
    def join(cls, parts: Iterable["Results"]) -> "Results":
        """All ``parts`` as one, images in rising order of id, boxes of an image as they came."""
        parts = list(parts)
        image_ids = np.concatenate([np.zeros(0, np.int64), *(p.image_ids for p in parts)])
        category_ids = np.concatenate([np.zeros(0, np.int64), *(p.category_ids for p in parts)])
        boxes = np.concatenate([np.zeros((0, 4)), *(p.boxes for p in parts)])
        scores = np.concatenate([np.zeros(0), *(p.scores for p in parts)])
        order = np.argsort(image_ids, kind="stable")
        return cls(
            image_ids=image_ids[order],
            category_ids=category_ids[order],
            boxes=boxes[order],
            scores=scores[order],
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        image_ids, category_ids = self.image_ids.tolist(), self.category_ids.tolist()
        boxes, scores = self.boxes.tolist(), self.scores.tolist()
        for image_id, category_id, box, score in zip(image_ids, category_ids, boxes, scores):
            yield {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def load_results(
    path: str | Path, ground_truth: GroundTruth, *, strict: bool = False
) -> tuple[Results, int]:
    """Read a COCO results file and check it against the ground truth it belongs to.

    Args:
        path: the file.
        ground_truth: what it belongs to.
        strict: refuse what would be repaired.

    Returns:
        The results, and how many values of another type were read as the number they mean.

    Raises:
        DataError: for a file that cannot be read, unknown images or categories, or values that
            cannot be: the file, the entries, the fields and the values.
    """
    columns, num_mended = read_results(
        path, ground_truth.image_ids, ground_truth.categories, strict=strict
    )
    results = Results(
        image_ids=columns["image_id"],
        category_ids=columns["category_id"],
        boxes=columns["bbox"],
        scores=columns["score"],
    )
    return Results.join([results]), num_mended


def _rows(table: AnnotationTable, kept: Ids) -> list[dict[str, Any]]:
    """The annotations ``kept`` in COCO's form."""
    columns = (
        table.image_ids[table.image_index[kept]],
        table.category_ids[table.category_index[kept]],
        table.boxes[kept],
        table.areas[kept],
        table.crowd[kept].astype(np.int64),
    )
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    return [
        {"id": number, **dict(zip(keys, values))}
        for number, values in enumerate(zip(*(column.tolist() for column in columns)), start=1)
    ]
