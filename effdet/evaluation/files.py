# SPDX-License-Identifier: Apache-2.0
"""COCO's two files, ground truth and results, read and checked.

Category ids and (x, y, width, height) boxes are COCO's; the rest of the package knows class indices
and xyxy boxes.
"""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.errors import DataError

Source = str | Path | Mapping[str, Any]
"""A COCO annotation file, or its content."""

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """An annotation file without what evaluation does not need.

    Attributes:
        name: how error messages call it.
        image_ids: ids of all images.
        categories: id -> name, in rising order of id.
        annotations: rows for COCOeval, numbered from 1 since it takes the id 0 for "no match".
    """

    name: str
    image_ids: frozenset[int]
    categories: dict[int, str]
    annotations: list[dict[str, Any]]

    @classmethod
    def load(cls, source: "Source | GroundTruth") -> "GroundTruth":
        """Read and check an annotation file, or its content; one that is read already stays.

        Raises:
            DataError: for a file that cannot be read, or a value that cannot be right: the file,
                the place in it and the value.
        """
        if isinstance(source, GroundTruth):
            return source
        name = "ground truth" if isinstance(source, Mapping) else str(source)
        content = source if isinstance(source, Mapping) else read_json(source)
        for key in ("images", "annotations", "categories"):
            if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
                raise DataError(f"{name}: not a COCO annotation file: there is no list {key!r}")
        image_ids = _unique_ids(name, "images", content["images"])
        category_ids = _unique_ids(name, "categories", content["categories"])
        names = [str(row.get("name", row["id"])) for row in content["categories"]]
        rows = content["annotations"]
        for index, row in enumerate(rows):
            problem = _problem(row, image_ids, category_ids) or _annotation_problem(row)
            if problem:
                raise DataError(f"{name}: annotations[{index}]: {problem}")
        return cls(
            name=name,
            image_ids=frozenset(image_ids),
            categories=dict(sorted(zip(category_ids, names, strict=True))),
            annotations=[_annotation(number, row) for number, row in enumerate(rows, start=1)],
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


def load_results(path: str | Path, ground_truth: GroundTruth) -> Results:
    """Read a COCO results file and check it against the ground truth it belongs to.

    Raises:
        DataError: for a file that cannot be read, an unknown image or category, or a value that
            cannot be: the file, the entry, the field and the value.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: not a COCO results file: expected a list of entries, "
            f"found {type(rows).__name__}"
        )
    for index, row in enumerate(rows):
        problem = _problem(row, ground_truth.image_ids, ground_truth.categories)
        problem = problem or _result_problem(row)
        if problem:
            raise DataError(f"{path}: entry {index}: {problem}")
    return Results.join(
        [
            Results(
                image_ids=np.array([row["image_id"] for row in rows], np.int64),
                category_ids=np.array([row["category_id"] for row in rows], np.int64),
                boxes=np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
                scores=np.array([row["score"] for row in rows], np.float64),
            )
        ]
    )


def read_json(path: str | Path) -> Any:
    """Content of a JSON file.

    Raises:
        DataError: for a file that is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file: {error}") from error


def _unique_ids(name: str, section: str, rows: list[Any]) -> dict[int, None]:
    """The ids of ``rows`` in their order, as the keys of a dictionary."""
    ids: dict[int, None] = {}
    for index, row in enumerate(rows):
        value = row.get("id") if isinstance(row, dict) else None
        if type(value) is not int or abs(value) >= 2**63:
            raise DataError(
                f"{name}: {section}[{index}]: id must be an integer of 64 bits, got {value!r}"
            )
        if value in ids:
            raise DataError(f"{name}: {section}[{index}]: id {value} is there twice")
        ids[value] = None
    if not ids:
        raise DataError(f"{name}: {section} is empty")
    return ids


def _problem(row: Any, images: Collection[int], categories: Collection[int]) -> str | None:
    """What is wrong with the ids or the box of a row of either file."""
    if not isinstance(row, dict):
        return f"expected an object, got {row!r}"
    for field, known in (("image_id", images), ("category_id", categories)):
        value = row.get(field)
        if type(value) is not int:
            return f"{field} must be an integer, got {value!r}"
        if value not in known:
            return f"{field} {value} is not in the ground truth"
    box = row.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        return f"bbox must be 4 finite numbers (x, y, width, height), got {box!r}"
    return None


def _annotation_problem(row: dict[str, Any]) -> str | None:
    if row.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd must be 0 or 1, got {row['iscrowd']!r}"
    if row.get("area") is not None and not _is_number(row["area"]):
        return f"area must be a finite number, got {row['area']!r}"
    return None


def _result_problem(row: dict[str, Any]) -> str | None:
    if not _is_number(row.get("score")):
        return f"score must be a finite number, got {row.get('score')!r}"
    if min(row["bbox"][2:]) < 0:
        return f"bbox must be (x, y, width, height) without negative sizes, got {row['bbox']!r}"
    return None


def _is_number(value: Any) -> bool:
    if not isinstance(value, float | int) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a float
        return False


def _annotation(number: int, row: dict[str, Any]) -> dict[str, Any]:
    box = [float(value) for value in row["bbox"]]
    return {
        "id": number,
        "image_id": row["image_id"],
        "category_id": row["category_id"],
        "bbox": box,
        # Converted files often leave it out; for boxes it is their own area.
        "area": float(box[2] * box[3] if row.get("area") is None else row["area"]),
        "iscrowd": int(row.get("iscrowd", 0)),
    }
