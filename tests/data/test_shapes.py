# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effdet.data import CocoDataset, locate_split, read_split, shapes
from effdet.data.images import decode_image
from effdet.data.shapes import draw, ensure_shapes, resolve_data
from effdet.errors import DataError

JSON_DIGESTS = {
    "train": "2c826517390568380afc6b15f2dce337f5257136f616cdab29f1cb026f54fbf1",
    "val": "993f18f6c11793d360444ce931ecd232b6099984c1fdd15410610d31edcd95a3",
}
"""SHA-256 of the annotation files of this version of the set."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_shapes(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SPLITS", {"train": 3, "val": 2})


def read(folder: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (folder / "annotations" / f"instances_{split}.json").read_text()
    )
    return content


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_are_the_same_on_every_machine(folder: Path, split: str) -> None:
    file = folder / "annotations" / f"instances_{split}.json"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == JSON_DIGESTS[split]


@pytest.mark.parametrize(("split", "count"), [("train", 480), ("val", 96)])
def test_it_is_a_coco_data_set(folder: Path, split: str, count: int) -> None:
    files = locate_split(folder, split)
    coco = CocoDataset(read_split(files), files.images)
    report = coco.report
    assert (len(coco), report.clipped, report.dropped, report.crowd_boxes) == (count, 0, 0, 0)
    assert coco.class_map.names == ("circle", "square", "triangle", "star")
    assert coco.class_map.category_ids == (1, 2, 3, 5)
    assert 0.01 * count < report.empty_images < 0.1 * count
    assert 2 * count < report.boxes < 3.5 * count


def test_files_are_those_of_the_annotations(folder: Path) -> None:
    for split in ("train", "val"):
        names = {image["file_name"] for image in read(folder, split)["images"]}
        assert {path.name for path in (folder / split).iterdir()} == names


def test_classes_are_balanced_and_objects_large(folder: Path) -> None:
    content = read(folder, "train")
    counts = np.bincount([row["category_id"] for row in content["annotations"]])
    assert counts[[1, 2, 3, 5]].min() > 0.8 * counts.max()
    shortest = {image["id"]: min(image["width"], image["height"]) for image in content["images"]}
    sides = [max(row["bbox"][2:]) / shortest[row["image_id"]] for row in content["annotations"]]
    assert np.quantile(sides, 0.02) > 0.2
    assert max(sides) < 0.51


def test_images_are_as_drawn_up_to_jpeg(folder: Path) -> None:
    drawing = draw("val", 3)
    image = decode_image(folder / "val" / "val_0003.jpg").permute(1, 2, 0).numpy()
    assert image.shape == drawing.pixels.shape
    assert np.abs(image.astype(int) - drawing.pixels).mean() < 6


def test_boxes_are_tight_around_the_pixels_that_show_the_object(folder: Path) -> None:
    rows = [row for row in read(folder, "train")["annotations"] if row["image_id"] == 4]
    visible = draw("train", 3).visible
    assert len(rows) == visible.max() > 1
    for number, row in enumerate(rows, start=1):
        x, y, width, height = row["bbox"]
        inside = visible[y : y + height, x : x + width] == number
        assert inside.sum() == (visible == number).sum() == row["area"]
        edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
        assert all(edge.any() for edge in edges)


def test_objects_stand_out_from_the_background() -> None:
    for index in range(20):
        drawing = draw("train", index)
        saturation = np.ptp(drawing.pixels.astype(int), axis=2)
        if drawing.categories:
            assert saturation[drawing.visible > 0].mean() > 60
        assert saturation[drawing.visible == 0].mean() < 50


def test_no_object_is_mostly_hidden() -> None:
    shown = [
        (draw("train", index).visible == number).sum()
        for index in range(30)
        for number in range(1, len(draw("train", index).categories) + 1)
    ]
    assert min(shown) > 60


def test_drawing_is_deterministic_and_splits_differ() -> None:
    assert np.array_equal(draw("train", 5).pixels, draw("train", 5).pixels)
    assert not np.array_equal(draw("train", 5).visible, draw("val", 5).visible)
    assert not np.array_equal(draw("train", 5).visible, draw("train", 6).visible)


@pytest.mark.usefixtures("small")
def test_it_is_drawn_once_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ensure_shapes(tmp_path)
    assert folder == tmp_path / "shapes-v1"
    said = f"effdet: drew the built-in set: 3 train and 2 val images in {folder}\n"
    assert capsys.readouterr() == ("", said)
    before = (folder / "train").stat().st_mtime_ns
    assert ensure_shapes(tmp_path) == folder
    assert capsys.readouterr() == ("", "")
    assert (folder / "train").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["shapes-v1"]


@pytest.mark.usefixtures("small")
def test_several_processes_may_start_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=ensure_shapes, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["shapes-v1"]
    assert len(list((tmp_path / "shapes-v1" / "train").iterdir())) == 3


@pytest.mark.usefixtures("small")
def test_an_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "_annotations", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ensure_shapes(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert ensure_shapes(tmp_path).is_dir()


@pytest.mark.usefixtures("small")
def test_the_folder_appears_only_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = []

    def rename(part: Path, folder: Path) -> None:
        renamed.append((len(list(part.rglob("*.jp*g"))), folder.exists()))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(DataError, match="cannot write the built-in data set: No space left"):
        ensure_shapes(tmp_path)
    assert renamed == [(5, False)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("variable", "expected"),
    [("EFFDET_CACHE", "shapes-v1"), ("XDG_CACHE_HOME", "effdet/shapes-v1")],
)
def test_the_cache_folder_is_the_users_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    monkeypatch.delenv("EFFDET_CACHE", raising=False)
    monkeypatch.setenv(variable, os.fspath(tmp_path))
    assert ensure_shapes() == tmp_path / expected


@pytest.mark.usefixtures("small")
def test_without_a_choice_it_is_the_home_folders_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EFFDET_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    assert ensure_shapes() == tmp_path / ".cache" / "effdet" / "shapes-v1"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/shapes-v1: cannot write .*; set EFFDET_CACHE to"):
        ensure_shapes(tmp_path / "file")


@pytest.mark.usefixtures("small")
def test_a_data_argument_is_a_folder_or_the_built_in_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDET_CACHE", os.fspath(tmp_path / "cache"))
    assert resolve_data("shapes") == tmp_path / "cache" / "shapes-v1"
    assert resolve_data(tmp_path) == tmp_path
    (tmp_path / "shapes").mkdir()
    assert resolve_data("shapes") == Path("shapes")
    with pytest.raises(DataError, match=r"coco: no such data folder \(a path, or 'shapes' for"):
        resolve_data("coco")
