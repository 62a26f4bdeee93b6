# SPDX-License-Identifier: Apache-2.0
"""Whether an annotation or results file may be accepted, written straight down.

Knows nothing of effdet: Python's json, one loop over the rows, one condition a rule.
"""

import contextlib
import io
import json
import math
import struct
from typing import Any

OUTER = 2**63 - 1
BOM = b"\xef\xbb\xbf"


class Pairs(list[tuple[str, Any]]):
    """An object with all of its keys."""


class WrongError(Exception):
    """Why a file must be refused."""


def parse(content: bytes) -> Any:
    """The value of a JSON text, objects as :class:`Pairs`."""

    def refuse(text: str) -> None:
        raise WrongError(f"{text} is no JSON")

    def integer(text: str) -> float:
        return int(text) if len(text) < 4000 else math.inf

    try:
        text = content.removeprefix(BOM).decode("utf-8")
        value = json.loads(text, object_pairs_hook=Pairs, parse_constant=refuse, parse_int=integer)
    except (ValueError, RecursionError) as error:
        raise WrongError(f"not JSON: {error}") from error
    if has_half_a_pair(value):
        raise WrongError("half of a surrogate pair")
    return value


def has_half_a_pair(value: Any) -> bool:
    """Whether any text in ``value`` cannot be encoded."""
    if isinstance(value, str):
        return any(0xD800 <= ord(letter) <= 0xDFFF for letter in value)
    if isinstance(value, Pairs):
        return any(has_half_a_pair(key) or has_half_a_pair(inner) for key, inner in value)
    return isinstance(value, list) and any(map(has_half_a_pair, value))


def need(condition: bool, reason: str) -> None:
    """Refuse the file unless ``condition``."""
    if not condition:
        raise WrongError(reason)


def fields(value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """The wanted fields of an object, none of them given twice."""
    need(isinstance(value, Pairs), "not an object")
    found: dict[str, Any] = {}
    for key, inner in value:
        if key in keys:
            need(key not in found, f"{key} twice")
            found[key] = inner
    return found


def is_id(value: Any) -> bool:
    """Whether ``value`` is an integer within 64 bits."""
    return type(value) is int and -OUTER <= value < OUTER


def number_of(value: Any) -> Any:
    """The integer that a float like 3.0 is; other values as they are."""
    if type(value) is float and math.isfinite(value) and value % 1 == 0 and abs(value) < 2**53:
        return int(value)
    return value


def mended(row: dict[str, Any], keys: tuple[str, ...]) -> int:
    """Put integers in place of floats like 3.0, and return how many."""
    changed = [key for key in keys if type(row.get(key)) is float]
    changed = [key for key in changed if type(number_of(row[key])) is int]
    row.update({key: number_of(row[key]) for key in changed})
    return len(changed)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number."""
    if type(value) is int:
        return abs(value) < 10**308
    return type(value) is float and math.isfinite(value)


def is_box(value: Any, bound: float) -> bool:
    """Whether ``value`` is four numbers within ``bound``."""
    return (
        type(value) is list
        and len(value) == 4
        and all(is_number(side) and abs(side) < bound for side in value)
    )


def is_text(value: Any) -> bool:
    """Whether ``value`` is a text with something in it."""
    return type(value) is str and value != ""


def judge_annotations(
    content: bytes, with_images: bool = True
) -> tuple[str | None, dict[str, Any] | None]:
    """Why the file must be refused, or what it holds once it is repaired."""
    try:
        return None, annotations(parse(content), with_images)
    except WrongError as error:
        return str(error), None


def annotations(value: Any, with_images: bool) -> dict[str, Any]:
    """What an annotation file holds, in pycocotools' form and as rows."""
    names = ("images", "annotations", "categories")
    root = fields(value, names)
    root.setdefault("annotations", [])
    floats = 0
    for name in names:
        need(name in root and type(root[name]) is list, f"no list {name}")
        need(not isinstance(root[name], Pairs), f"{name} is an object")
    images: dict[int, tuple[int, int, int, str]] = {}
    categories: dict[int, str] = {}
    for row in root["images"]:
        row = fields(row, ("id", "width", "height", "file_name"))
        floats += mended(row, ("id", "width", "height"))
        need(is_id(row.get("id")) and row["id"] not in images, "image id")
        for key in ("width", "height"):
            if with_images or key in row:
                need(type(row.get(key)) is int and 1 <= row[key] <= 10**6, key)
        if with_images or "file_name" in row:
            need(is_text(row.get("file_name")), "file_name")
        size = row.get("width", 0), row.get("height", 0)
        images[row["id"]] = (row["id"], *size, row.get("file_name", ""))
    for row in root["categories"]:
        row = fields(row, ("id", "name"))
        floats += mended(row, ("id",))
        need(is_id(row.get("id")) and row["id"] not in categories, "category id")
        if with_images or "name" in row:
            need(is_text(row.get("name")) and len(row["name"]) <= 1000, "name")
        categories[row["id"]] = row.get("name", "")
    need(bool(images) and bool(categories), "empty")
    found = repaired(root["annotations"], set(images), set(categories))
    found["mended"] += floats
    found["images"], found["categories"] = list(images.values()), list(categories.items())
    if with_images:
        found |= fitted(found["rows"], images)
        is_changed = any(found["filled"].values()) or any(found["fits"].values())
    else:
        is_changed = any(found["filled"].values()) or not all(found["scorable"])
    return found | {"repaired": is_changed or found["mended"] > 0}


def repaired(rows: list[Any], images: set[int], categories: set[int]) -> dict[str, Any]:
    """The annotations as they are used."""
    seen, used, kept, ids, scored, count = set(), [], [], [], [], 0
    filled: dict[str, list[int]] = {"no-id": [], "no-area": [], "no-iscrowd": []}
    for number, row in enumerate(rows):
        row = fields(row, ("id", "image_id", "category_id", "bbox", "area", "iscrowd"))
        for key in ("id", "iscrowd"):
            if row.get(key, 0) is None:
                del row[key]
        if type(row.get("iscrowd")) is bool:
            row["iscrowd"] = {True: 1, False: 0}[row["iscrowd"]]
            count += 1
        count += mended(row, ("id", "image_id", "category_id", "iscrowd"))
        if "id" in row:
            need(is_id(row["id"]) and row["id"] not in seen, "annotation id")
            seen.add(row["id"])
        else:
            filled["no-id"].append(number)
        ids.append(row.get("id"))
        need(is_id(row.get("image_id")) and row["image_id"] in images, "image_id")
        need(is_id(row.get("category_id")) and row["category_id"] in categories, "category_id")
        need(is_box(row.get("bbox"), 1e9), "bbox")
        box = [float(side) for side in row["bbox"]]
        area = row.get("area")
        if area is None:
            area = box[2] * box[3]
            filled["no-area"].append(number)
        else:
            need(is_number(area) and 0 <= area < 1e18, "area")
        if "iscrowd" not in row:
            filled["no-iscrowd"].append(number)
        crowd = row.get("iscrowd", 0)
        need(type(crowd) is int and crowd in (0, 1), "iscrowd")
        used.append((row["image_id"], row["category_id"], box, float(area), bool(crowd)))
        scored.append(min(box[2:]) >= 0)
        if scored[-1]:
            keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
            values = (row["image_id"], row["category_id"], box, float(area), crowd)
            kept.append({"id": len(kept) + 1, **dict(zip(keys, values))})
    content = {
        "images": [{"id": i} for i in images],
        "annotations": kept,
        "categories": [{"id": i} for i in categories],
    }
    return {
        "rows": used,
        "ids": ids,
        "filled": filled,
        "scorable": scored,
        "content": content,
        "mended": count,
    }


def fitted(rows: list[Any], images: dict[int, tuple[int, int, int, str]]) -> dict[str, Any]:
    """What becomes of the boxes where they are cut to their images."""
    boxes, kept = [], []
    fits: dict[str, list[int]] = {"box-without-area": [], "box-outside": [], "box-clipped": []}
    for number, (image_id, _, (x, y, width, height), _, _) in enumerate(rows):
        _, right, bottom, _ = images[image_id]
        corners = [x, y, x + width, y + height]
        cut = [
            min(max(corner, 0.0), float(bound))
            for corner, bound in zip(corners, (right, bottom, right, bottom))
        ]
        left32, top32, right32, bottom32 = (struct.unpack("f", struct.pack("f", c))[0] for c in cut)
        is_left = width > 0 and height > 0 and right32 > left32 and bottom32 > top32
        boxes.append(cut)
        kept.append(is_left)
        if width <= 0 or height <= 0:
            fits["box-without-area"].append(number)
        elif not is_left:
            fits["box-outside"].append(number)
        elif any(abs(a - b) > 0.01 for a, b in zip(cut, corners)):
            fits["box-clipped"].append(number)
    return {"fitted": boxes, "kept": kept, "fits": fits}


def judge_results(
    content: bytes, images: list[int], categories: list[int]
) -> tuple[str | None, list[Any] | None]:
    """Why a results file must be refused, or its rows."""
    try:
        value = parse(content)
        need(type(value) is list, "not a list")
        rows = []
        for row in value:
            row = fields(row, ("image_id", "category_id", "bbox", "score"))
            mended(row, ("image_id", "category_id"))
            need(type(row.get("image_id")) is int and row["image_id"] in images, "image_id")
            need(type(row.get("category_id")) is int, "category_id")
            need(row["category_id"] in categories, "category_id")
            need(is_box(row.get("bbox"), 1e40) and min(row["bbox"][2:]) >= 0, "bbox")
            need(is_number(row.get("score")), "score")
            box = [float(side) for side in row["bbox"]]
            rows.append((row["image_id"], row["category_id"], box, float(row["score"])))
    except WrongError as error:
        return str(error), None
    return None, rows


def figures(content: dict[str, Any], detections: list[dict[str, Any]]) -> list[float]:
    """COCO's twelve figures by pycocotools; an empty list of detections scores 0 there."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = content
        truth.createIndex()
        if detections:
            found = truth.loadRes([dict(row) for row in detections])
        else:  # its own way to read results fails for an empty list
            found.dataset = content | {"annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]
