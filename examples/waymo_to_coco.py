# SPDX-License-Identifier: Apache-2.0
"""2D camera boxes of the Waymo Open Dataset (Perception, v2 parquet files) as COCO JSON.

    pip install pyarrow
    python examples/waymo_to_coco.py waymo waymo-coco

INPUT holds ``training/camera_image/*.parquet`` and ``training/camera_box/*.parquet``, and the same
in ``validation/``. See docs/waymo.md.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from effdet.data.images import read_size

SPLITS = {"training": "train", "validation": "val"}
CLASSES = {1: "vehicle", 2: "pedestrian", 3: "sign", 4: "cyclist"}
CAMERAS = {1: "front", 2: "front_left", 3: "front_right", 4: "side_left", 5: "side_right"}

KEYS = ("key.segment_context_name", "key.frame_timestamp_micros", "key.camera_name")
IMAGE = "[CameraImageComponent].image"
TYPE = "[CameraBoxComponent].type"
BOX = tuple(
    f"[CameraBoxComponent].box.{key}" for key in ("center.x", "center.y", "size.x", "size.y")
)

Row = Mapping[str, Any]


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description="Waymo camera boxes as COCO JSON.")
    parser.add_argument("input", type=Path, help="folder with training/ and validation/")
    parser.add_argument("output", type=Path, help="folder to create")
    parser.add_argument("--cameras", nargs="+", default=["front"], choices=list(CAMERAS.values()))
    parser.add_argument("--every", type=int, default=10, help="take each so many-th frame (10 Hz)")
    options = parser.parse_args()
    if options.output.exists():
        sys.exit(f"{options.output} exists; give another folder")
    for folder, split in SPLITS.items():
        if (options.input / folder).is_dir():
            convert(options.input / folder, options.output, split, options.cameras, options.every)
    print(f"next: effdet check {options.output}")


def convert(folder: Path, output: Path, split: str, cameras: Iterable[str], every: int) -> None:
    """Write one split: the images, and one COCO file of their boxes."""
    (output / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file in sorted((folder / "camera_image").glob("*.parquet")):
        ids = write_images(rows_of(file, (*KEYS, IMAGE)), output / split, cameras, every, images)
        boxes = rows_of(folder / "camera_box" / file.name, (*KEYS, TYPE, *BOX))
        annotations += annotations_of(boxes, ids, first=len(annotations) + 1)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in CLASSES.items()],
    }
    (output / "annotations").mkdir(exist_ok=True)
    (output / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    print(f"{split}: {len(images)} images, {len(annotations)} boxes")


def rows_of(file: Path, columns: Iterable[str]) -> Iterator[Row]:
    """The rows of a parquet file, a few at a time."""
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file)
    for batch in table.iter_batches(batch_size=64, columns=list(columns)):
        yield from batch.to_pylist()


def write_images(
    rows: Iterable[Row],
    folder: Path,
    cameras: Iterable[str],
    every: int,
    images: list[dict[str, Any]],
) -> dict[tuple[Any, ...], int]:
    """Write the chosen images of a segment; their COCO rows are added to ``images``.

    Returns:
        (segment, time, camera) -> image id.
    """
    wanted = {number for number, name in CAMERAS.items() if name in cameras}
    ids: dict[tuple[Any, ...], int] = {}
    chosen = [row for row in rows if row[KEYS[2]] in wanted]
    times = sorted({row[KEYS[1]] for row in chosen})[::every]
    for row in chosen:
        if row[KEYS[1]] not in times:
            continue
        name = f"{row[KEYS[0]]}_{row[KEYS[1]]}_{CAMERAS[row[KEYS[2]]]}.jpg"
        (folder / name).write_bytes(row[IMAGE])
        height, width = read_size(folder / name)
        ids[tuple(row[key] for key in KEYS)] = len(images) + 1
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
    return ids


def annotations_of(
    rows: Iterable[Row], ids: Mapping[tuple[Any, ...], int], first: int
) -> list[dict[str, Any]]:
    """COCO rows of the boxes of chosen images, numbered from ``first``.

    Waymo gives centre and size in pixels, COCO takes the left upper corner and size.
    """
    found: list[dict[str, Any]] = []
    for row in rows:
        image_id = ids.get(tuple(row[key] for key in KEYS))
        if image_id is None or row[TYPE] not in CLASSES:
            continue
        x, y, width, height = (row[key] for key in BOX)
        box = [round(value, 2) for value in (x - width / 2, y - height / 2, width, height)]
        found.append(
            {
                "id": first + len(found),
                "image_id": image_id,
                "category_id": row[TYPE],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )
    return found


if __name__ == "__main__":
    main()
