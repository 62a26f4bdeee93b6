# SPDX-License-Identifier: Apache-2.0
"""Annotation and results files, drawn valid and then spoilt."""

import copy
import json
import random
from dataclasses import dataclass
from typing import Any

ODD_IDS = (0, -1, 2**31, 2**53 + 1, 2**62, 2**63 - 2, -(2**63) + 1)
NAMES = ("cat", "ü", '"id"', "a\\b", "id", "bbox", "\U0001f600", "x" * 300, "日本")
WRONG = (
    None, True, False, "", "1", "x", [], {}, [1], {"id": 1}, 0, -1, 1, 1.0, 1.5, 2, 10**9, -(10**9),
    10**18, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30, 10**400, 1e300, -1e300, 1e-320, -0.0,
    float("nan"), float("inf"), float("-inf"), "\ud800", "0", [1, 2, 3, 4], [[1, 2, 3, 4]],
)  # fmt: skip
KEYS = {
    "images": ("id", "width", "height", "file_name"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name"),
}
RESULT_KEYS = ("image_id", "category_id", "bbox", "score")
BYTES = b'{}[]",:\\ \n\x00\x7f\x80\xc3\xffeE+-.0123456789ntfNIu'


class Twice(dict[str, Any]):
    """An object that is written with one key twice."""

    key, value = "", None


@dataclass(frozen=True)
class Case:
    """A generated file.

    Attributes:
        content: its bytes.
        window: bytes that the reader takes at once.
        detections: of the content before it was spoilt.
    """

    content: bytes
    window: int
    detections: list[dict[str, Any]]


# --- what is drawn ---


def draw_case(seed: int, number: int, *, results: bool = False) -> Case:
    """The case ``number``, always the same."""
    draw = random.Random(f"{seed} {number} {results}")
    document = draw_document(draw)
    detections = draw_detections(draw, document)
    content: Any = detections if results else document
    spoil = draw.choice((0, 1, 1, 2, 2, 2, 3, 3, 4, 5))
    for _ in range(spoil):
        content = mutate(draw, content)
    text = write(draw, content)
    data = text.encode("utf-8", "surrogatepass" if draw.random() < 0.5 else "replace")
    if spoil and draw.random() < 0.25:
        data = edit_bytes(draw, data)
    return Case(data, draw.choice((64, 200, 1000, 1 << 20)), detections)


def draw_document(draw: random.Random) -> dict[str, Any]:
    """A valid annotation file, repairs included."""
    image_ids = draw_ids(draw, draw.randint(1, 6))
    category_ids = draw_ids(draw, draw.randint(1, 4))
    images = [
        {
            "id": i,
            "file_name": f"{k}-{draw.choice(NAMES)}.jpg",
            "width": draw.choice((1, 30, 640)),
            "height": draw.choice((1, 48, 480)),
        }
        for k, i in enumerate(image_ids)
    ]
    rows = [
        draw_annotation(draw, i, image_ids, category_ids)
        for i in draw_ids(draw, draw.randint(0, 12))
    ]
    document = {
        "info": draw.choice(({}, {"images": 1}, "x", None, {"id": [1, {"bbox": 2}]})),
        "images": images,
        "annotations": rows,
        "categories": [{"id": i, "name": draw.choice(NAMES)} for i in category_ids],
    }
    return shuffled(draw, document)


def draw_ids(draw: random.Random, count: int) -> list[int]:
    ids = draw.sample(range(1, 90), count)
    if count and draw.random() < 0.2:
        ids[draw.randrange(count)] = draw.choice(ODD_IDS)
    return ids


def draw_annotation(
    draw: random.Random, row_id: int, image_ids: list[int], category_ids: list[int]
) -> dict[str, Any]:
    number = draw.choice((draw.randint, lambda a, b: round(draw.uniform(a, b), 2)))
    row: dict[str, Any] = {
        "id": row_id,
        "image_id": draw.choice(image_ids),
        "category_id": draw.choice(category_ids),
        "bbox": [number(-20, 300), number(-20, 300), number(1, 200), number(1, 200)],
    }
    if draw.random() < 0.1:  # repaired
        row["bbox"][draw.choice((2, 3))] = draw.choice((0, -1, -0.0, 1e-9, -3.5))
    if draw.random() < 0.05:
        del row["id"]
    if draw.random() < 0.9:
        row["iscrowd"] = int(draw.random() < 0.1)
    if draw.random() < 0.05:
        key = draw.choice([key for key in row if key != "bbox"])
        row[key] = float(row[key])
    if draw.random() < 0.05:
        row["iscrowd"] = draw.choice((None, False, True, 0.0, 1.0))
    if draw.random() < 0.9:
        row["area"] = draw.choice((None, 0, number(1, 20000), number(1, 20000)))
    if draw.random() < 0.5:
        row["segmentation"] = draw.choice(
            ([[1, 2.5, 3]], {"counts": "id", "size": [3, 4]}, [{"a": 1}, {"b": 2}], [])
        )
    if draw.random() < 0.1:
        row["note"] = draw.choice(("id", '"bbox"', {"id": 1, "iscrowd": "x"}, [{}, {}], "},{"))
    return shuffled(draw, row)


def draw_detections(draw: random.Random, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Results that meet some of the boxes."""
    images = [row["id"] for row in document["images"]]
    categories = [row["id"] for row in document["categories"]]
    found = []
    for row in document["annotations"]:
        for _ in range(draw.choice((0, 1, 1, 2))):
            x, y, width, height = (side + draw.uniform(-3, 3) for side in row["bbox"])
            found.append(
                {
                    "image_id": row["image_id"],
                    "category_id": draw.choice((row["category_id"], draw.choice(categories))),
                    "bbox": [x, y, abs(width), abs(height)],
                    "score": round(draw.random(), 1),
                }
            )
    for _ in range(draw.choice((0, 0, 2))):
        box = [0, 1, draw.choice((0, 9)), 9]
        found.append(
            {
                "image_id": draw.choice(images),
                "category_id": draw.choice(categories),
                "bbox": box,
                "score": draw.choice((0, 1, 2.5, -1, 1e-9)),
            }
        )
    return found


def shuffled(draw: random.Random, values: dict[str, Any]) -> dict[str, Any]:
    items = list(values.items())
    if draw.random() < 0.5:
        draw.shuffle(items)
    return dict(items)


# --- what is done to it ---


def mutate(draw: random.Random, content: Any) -> Any:
    """The content with one thing changed; mostly for the worse."""
    if isinstance(content, list):
        sections = {"": content}
    elif isinstance(content, dict):
        sections = {key: content[key] for key in KEYS if isinstance(content.get(key), list)}
    else:
        return content
    name = draw.choice(list(sections) or ["none"])
    rows = sections.get(name)
    if rows is None or draw.random() < 0.04:
        return mutate_root(draw, content)
    keys = KEYS.get(name, RESULT_KEYS)
    if not rows or draw.random() < 0.05:
        rows.insert(draw.randint(0, len(rows)), draw_wrong(draw))
        return content
    at = draw.randrange(len(rows))
    row, key = rows[at], draw.choice(keys)
    if not isinstance(row, dict):
        return content
    kind = draw.choice(
        ("value", "value", "missing", "copy", "twice", "side", "reference", "rename")
    )
    if kind == "value":
        row[key] = draw_wrong(draw)
    elif kind == "missing":
        row.pop(key, None)
    elif kind == "copy":
        rows.append(dict(row))
    elif kind == "twice":
        rows[at] = twice(draw, row, key)
    elif kind == "side" and isinstance(row.get("bbox"), list):
        box = row["bbox"] = list(row["bbox"])
        if box and draw.random() < 0.8:
            box[draw.randrange(len(box))] = draw_wrong(draw)
        else:
            box.append(3)
    elif kind == "reference":
        row[draw.choice([key for key in keys if key.endswith("id")])] = draw.choice(
            (3, 91, *ODD_IDS)
        )
    elif kind == "rename" and key in row:
        row[key + draw.choice((" ", "s", "\0"))] = row.pop(key)
    return content


def draw_wrong(draw: random.Random) -> Any:
    """A value that is wrong in most places."""
    return copy.deepcopy(draw.choice(WRONG))


def mutate_root(draw: random.Random, content: Any) -> Any:
    if isinstance(content, list) or draw.random() < 0.2:
        return copy.deepcopy(draw.choice(([content], {"annotations": content}, *WRONG)))
    key = draw.choice(list(KEYS))
    kind = draw.choice(("value", "missing", "empty", "twice"))
    if kind == "value":
        return content | {key: draw_wrong(draw)}
    if kind == "missing":
        return {k: value for k, value in content.items() if k != key}
    if kind == "empty":
        return content | {key: []}
    return twice(draw, content, key)


def twice(draw: random.Random, values: dict[str, Any], key: str) -> Twice:
    both = Twice(values)
    both.key = draw.choice((key, key, "note"))
    both.value = draw.choice((values.get(key), draw_wrong(draw)))
    return both


def edit_bytes(draw: random.Random, data: bytes) -> bytes:
    """Some bytes changed, put in, taken out or cut off."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randint(0, len(data))
        kind = draw.choice(("change", "insert", "remove", "cut", "bom"))
        letter = bytes([draw.choice(BYTES)])
        if kind == "change":
            data = data[:at] + letter + data[at + 1 :]
        elif kind == "insert":
            data = data[:at] + letter * draw.choice((1, 1, 3)) + data[at:]
        elif kind == "remove":
            data = data[:at] + data[at + draw.choice((1, 1, 20)) :]
        elif kind == "cut" and draw.random() < 0.3:
            data = data[:at]
        elif kind == "bom" and draw.random() < 0.5:
            data = b"\xef\xbb\xbf" + data
    return data


def write(draw: random.Random, content: Any) -> str:
    """JSON in one of its many forms."""
    escape = draw.random() < 0.5
    blank = draw.choice(("", " ", "\n  ", "\t\r\n"))

    def text(value: str) -> str:
        if draw.random() < 0.02 and value.isascii() and value.isprintable():
            return '"' + "".join(f"\\u{ord(letter):04x}" for letter in value) + '"'
        return json.dumps(value, ensure_ascii=escape)

    def form(value: Any) -> str:
        if isinstance(value, dict):
            items = list(value.items())
            if isinstance(value, Twice):
                items.insert(draw.randint(0, len(items)), (value.key, value.value))
            inner = f",{blank}".join(f"{text(key)}:{blank}{form(v)}" for key, v in items)
            return "{" + blank + inner + "}"
        if isinstance(value, list | tuple):
            return "[" + f"{blank},".join(form(v) for v in value) + blank + "]"
        return text(value) if isinstance(value, str) else json.dumps(value)

    return form(content)
