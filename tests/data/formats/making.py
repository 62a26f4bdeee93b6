# SPDX-License-Identifier: Apache-2.0
"""Small data sets of every format on disk."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from effdet.annotations import AnnotationTable, Faults
from effdet.data import SplitFiles, collect_split, find_splits

WIDTH, HEIGHT = 100, 50


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A gray image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 90, 90)).save(path)
    return path


def text(path: Path, content: str | bytes) -> Path:
    """A file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def voc_object(name: str, corners: Iterable[object], more: str = "") -> str:
    """An object of Pascal VOC."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def voc_xml(objects: str = "", file_name: str = "", size: str | None = None) -> str:
    """An annotation file of Pascal VOC."""
    if size is None:
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{file_name}</filename>{size}{objects}</annotation>"


def voc_folder(folder: Path, objects: dict[str, str]) -> Path:
    """``train/`` with XML files beside their images."""
    for stem, content in objects.items():
        picture(folder / "train" / f"{stem}.jpg")
        text(folder / "train" / f"{stem}.xml", voc_xml(content, f"{stem}.jpg"))
    return folder


def yolo_folder(
    folder: Path, labels: dict[str, str | None], data: str = "train: images\nnames: [cat, dog]\n"
) -> Path:
    """``images/`` and ``labels/``; None for an image without labels."""
    text(folder / "data.yaml", data)
    for stem, content in labels.items():
        picture(folder / "images" / f"{stem}.jpg")
        if content is not None:
            text(folder / "labels" / f"{stem}.txt", content)
    return folder


def csv_folder(folder: Path, content: str, images: Iterable[str] = ("a.jpg", "b.jpg")) -> Path:
    """``train.csv`` and ``images/``."""
    text(folder / "train.csv", content)
    for name in images:
        picture(folder / "images" / name)
    return folder


def read_train(folder: Path) -> AnnotationTable:
    """The split ``train``, which must be without fault."""
    table, faults = collect_split(find_splits(folder)["train"])
    assert table is not None, str(faults)
    return table


def faults_of(files: SplitFiles) -> Faults:
    """What is wrong with a split."""
    table, faults = collect_split(files)
    assert table is None
    return faults


def train_faults(folder: Path) -> list[tuple[str, str, str, str]]:
    """Kind, place, what is expected and what is found of the faults of ``train``."""
    faults = faults_of(find_splits(folder)["train"])
    return [(f.kind, f.place, f.expected, f.found) for f in faults.kept]
