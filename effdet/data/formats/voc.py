# SPDX-License-Identifier: Apache-2.0
"""Where Pascal VOC files and their images are.

The devkit's layout: ``Annotations/*.xml``, ``JPEGImages/`` and ``ImageSets/Main/{split}.txt``;
without lists all files are one split, ``train``. The same, or XML files beside their images, may be
in ``train/``, ``val/`` or ``valid/`` and ``test/``, or directly in the data folder.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from effdet.data.formats.split import SplitFiles, our_word, split_folders
from effdet.data.formats.text_fields import listed_in
from effdet.data.image_file import IMAGE_SUFFIXES
from effdet.errors import DataError
from effdet.files.regular import open_regular

LOOKED_FOR = "Annotations/*.xml or *.xml beside images, also in train/ and val/"
LABEL_FOLDERS = ("Annotations", "annotations")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
LISTS = Path("ImageSets") / "Main"
SPLITS = ("train", "val", "trainval", "test")

_ROOT = re.compile(rb"<annotation[\s/>]")
_FLAG = re.compile(r"\s+-?[01]$")
_LOOKED_AT = 20  # files, of which the first may be broken
_SNIFFED = 2000  # bytes


@dataclass(frozen=True)
class XmlFiles:
    """XML files of one folder.

    Attributes:
        labels: the folder.
        stems: their names without ``.xml``.
        list_file: the list that names them; None for all files of the folder.
    """

    labels: Path
    stems: list[str]
    list_file: Path | None = None


def sign(folder: Path) -> Path | None:
    """A file that shows that the folder is of this format."""
    for root in (folder, *split_folders(folder).values()):
        labels = label_folder(root)
        for stem in stems_in(labels)[:_LOOKED_AT]:
            if _is_annotation(labels / f"{stem}.xml"):
                return labels / f"{stem}.xml"
    return None


def find(folder: Path) -> dict[str, SplitFiles]:
    """All splits by our words for them."""
    if not stems_in(label_folder(folder)):
        roots = {
            name: root
            for name, root in split_folders(folder).items()
            if stems_in(label_folder(root))
        }
        return {
            name: SplitFiles(
                format="voc",
                name=name,
                annotations=root,
                images=image_folder(root),
                root=folder,
                siblings=tuple(other for other in roots.values() if other != root),
            )
            for name, root in roots.items()
        }
    names = [name for name in SPLITS if (folder / LISTS / f"{name}.txt").is_file()] or ["train"]
    images = image_folder(folder)
    return {
        name: SplitFiles(
            format="voc", name=our_word(name), annotations=folder, images=images, root=folder
        )
        for name in names
    }


def opened_by(files: SplitFiles) -> Iterator[Path]:
    """The folders and lists, also of other splits, in which the XML files of a split are found."""
    for root in (files.annotations, *files.siblings):
        yield label_folder(root)
    for name in SPLITS:
        if (path := files.annotations / LISTS / f"{name}.txt").is_file():
            yield path


def xml_files_of(files: SplitFiles) -> XmlFiles:
    """The XML files of a split.

    Raises:
        DataError: where its list cannot be read.
    """
    labels, wanted = (
        label_folder(files.annotations),
        files.annotations / LISTS / f"{files.name}.txt",
    )
    if not wanted.is_file():
        return XmlFiles(labels, stems_in(labels))
    return XmlFiles(labels, _listed_stems(wanted, labels), wanted)


def other_xml_files(files: SplitFiles) -> Iterator[XmlFiles]:
    """The XML files of the data set's other splits."""
    for root in files.siblings:
        yield XmlFiles(label_folder(root), stems_in(label_folder(root)))
    for name in SPLITS:
        wanted = files.annotations / LISTS / f"{name}.txt"
        if name != files.name and wanted.is_file():
            labels = label_folder(files.annotations)
            yield XmlFiles(labels, _listed_stems(wanted, labels), wanted)


def _listed_stems(path: Path, labels: Path) -> list[str]:
    """The images of a list, whose lines may end with a flag: ``000012 -1``."""
    there = set(stems_in(labels))
    lines = [line for line in listed_in(path) if line]
    return [line if line in there else _FLAG.sub("", line) for line in lines]


def label_folder(root: Path) -> Path:
    """Where the XML files are: in a folder for them, or in ``root``."""
    found = (root / name for name in LABEL_FOLDERS)
    return next((folder for folder in found if stems_in(folder)), root)


def image_folder(root: Path) -> Path:
    """Where the images are: beside the XML files, or in a folder for them."""
    if label_folder(root) == root and images_in(root):
        return root
    found = (root / name for name in IMAGE_FOLDERS)
    return next((folder for folder in found if folder.is_dir()), root)


def stems_in(folder: Path) -> list[str]:
    """Names of the XML files of a folder, without ``.xml``, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name[:-4] for entry in entries if entry.name.endswith(".xml"))
    except OSError:
        return []


def images_in(folder: Path) -> dict[str, list[str]]:
    """Names of the images of a folder by their stems."""
    found: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError:
        return {}
    for name in names:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - of thousands of names
        if suffix.lower() in IMAGE_SUFFIXES:
            found.setdefault(stem, []).append(name)
    return found


def _is_annotation(path: Path) -> bool:
    try:
        with open_regular(path, "annotation file", DataError) as file:
            return _ROOT.search(file.read(_SNIFFED)) is not None
    except DataError:
        return False
