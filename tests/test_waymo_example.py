# SPDX-License-Identifier: Apache-2.0
"""The Waymo recipe, on tables made here in the place of parquet files."""

import importlib.util
import io
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from effdet.data import CocoDataset, find_splits, read_split

SCRIPT = Path(__file__).parents[1] / "examples" / "waymo_to_coco.py"
TABLES: dict[str, list[dict[str, Any]]] = {}


class ParquetFile:
    """As pyarrow's, over tables of this test."""

    def __init__(self, path: Path) -> None:
        self.rows = TABLES[f"{path.parent.parent.name}/{path.parent.name}/{path.name}"]

    def iter_batches(self, batch_size: int, columns: list[str]) -> Iterator[Any]:
        rows = [{key: row[key] for key in columns} for row in self.rows]
        yield types.SimpleNamespace(to_pylist=lambda: rows)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as a module, with a pyarrow of our own."""
    spec = importlib.util.spec_from_file_location("waymo_to_coco", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pyarrow, parquet = types.ModuleType("pyarrow"), types.ModuleType("pyarrow.parquet")
    parquet.ParquetFile = ParquetFile  # type: ignore[attr-defined]
    pyarrow.parquet = parquet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", pyarrow)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    return module


def jpeg(width: int, height: int) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (width, height)).save(output, "jpeg")
    return output.getvalue()


def key(time: int, camera: int) -> dict[str, Any]:
    return {
        "key.segment_context_name": "seg",
        "key.frame_timestamp_micros": time,
        "key.camera_name": camera,
    }


def box(time: int, camera: int, kind: int, *values: float) -> dict[str, Any]:
    names = ("center.x", "center.y", "size.x", "size.y")
    sides = {f"[CameraBoxComponent].box.{name}": value for name, value in zip(names, values)}
    return key(time, camera) | sides | {"[CameraBoxComponent].type": kind}


def test_a_folder_of_waymo_becomes_a_data_set(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("training", "validation"):
        (tmp_path / "waymo" / folder / "camera_image").mkdir(parents=True)
        (tmp_path / "waymo" / folder / "camera_image" / "seg.parquet").touch()
        images = [
            key(time, camera) | {"[CameraImageComponent].image": jpeg(96, 64)}
            for time in (10, 20, 30)
            for camera in (1, 4)
        ]
        TABLES[f"{folder}/camera_image/seg.parquet"] = images
        TABLES[f"{folder}/camera_box/seg.parquet"] = [
            box(10, 1, 1, 20, 30, 10, 8),
            box(20, 1, 2, 20, 30, 10, 8),  # a frame that is not taken
            box(30, 1, 4, 50.5, 30.25, 11, 8.5),
            box(30, 1, 0, 50, 30, 10, 8),  # of no known kind
            box(30, 4, 2, 50, 30, 10, 8),  # a camera that is not taken
        ]
    words = [str(SCRIPT), str(tmp_path / "waymo"), str(tmp_path / "coco"), "--every", "2"]
    monkeypatch.setattr(sys, "argv", words)
    recipe.main()
    splits = find_splits(tmp_path / "coco")
    assert list(splits) == ["train", "val"]
    table = read_split(splits["train"])
    assert table.boxes.tolist() == [[15, 26, 10, 8], [45, 26, 11, 8.5]]
    names = [table.category_names[k] for k in table.category_index]
    assert names == ["vehicle", "cyclist"]
    assert list(table.file_names) == ["seg_10_front.jpg", "seg_30_front.jpg"]
    assert table.sizes.tolist() == [[64, 96], [64, 96]]
    CocoDataset(table, splits["train"].images).load(1)
    with pytest.raises(SystemExit, match="exists; give another folder"):
        recipe.main()
