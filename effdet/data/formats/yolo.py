# SPDX-License-Identifier: Apache-2.0
"""Where the files of a YOLO data set are: what its ``data.yaml`` says, within its folder.

``path`` is relative to the file; ``train``, ``val`` (or ``valid``) and ``test`` are relative to
that: a folder of images, a text file that lists images, or several of them. ``names`` is a list, or
a mapping from 0 on. The labels of ``images/a/1.jpg`` are ``labels/a/1.txt``.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet.annotations import Faults, fault_of_name, refuse_way_out
from effdet.annotations.faults import shown_value
from effdet.annotations.image_files import EXPECTED
from effdet.data.formats.class_ids import is_name
from effdet.data.formats.split import FOLDERS, SplitFiles
from effdet.data.formats.text_fields import listed_in
from effdet.data.image_file import IMAGE_SUFFIXES
from effdet.errors import DataError, UsageError, shown
from effdet.files.regular import open_regular
from effdet.files.yaml_file import Entry, read_yaml

LOOKED_FOR = "data.yaml"
USUAL = ("data.yaml", "data.yml", "dataset.yaml")
LABELS = "labels"

_KEYS = re.compile(rb"^(names|train|val|valid)\s*:", re.MULTILINE)
_IMAGES = re.compile(r"(?:^|(?<=/))images(?=/)")


@dataclass(frozen=True)
class Dataset:
    """What ``data.yaml`` says.

    Attributes:
        file: the file.
        root: folder that everything is in and relative to.
        entries: its lines.
    """

    file: Path
    root: Path
    entries: dict[str, Entry]

    def entry(self, split: str) -> Entry | None:
        """The line of a split, by any of its words."""
        words = FOLDERS.get(split, (split,))
        found = (self.entries[word] for word in words if word in self.entries)
        return next((entry for entry in found if entry.value not in (None, "", [])), None)


def sign(folder: Path) -> Path | None:
    """A file that shows that the folder is of this format."""
    found = [path for path in folder.glob("*.y*ml") if _is_data_file(path)]
    usual = [folder / name for name in USUAL if folder / name in found]
    return next(iter(usual or sorted(found)), None)


def find(folder: Path) -> dict[str, SplitFiles]:
    """All splits by our words for them.

    Raises:
        DataError: for a file that cannot be read.
    """
    file = sign(folder)
    assert file is not None
    return find_in(file)


def find_in(file: Path) -> dict[str, SplitFiles]:
    """All splits of a ``data.yaml``.

    Raises:
        DataError: for a file that cannot be read.
    """
    dataset = open_dataset(file)
    return {
        name: SplitFiles(
            format="yolo", name=name, annotations=file, images=dataset.root, root=file.parent
        )
        for name in FOLDERS
        if dataset.entry(name) is not None
    }


def open_dataset(file: Path) -> Dataset:
    """What a ``data.yaml`` says.

    Raises:
        DataError: naming file, line and column, where it cannot be read or leaves its folder.
    """
    try:
        entries = read_yaml(file, numbered=True)
    except UsageError as error:
        raise DataError(str(error)) from error
    root = file.parent
    if (entry := entries.get("path")) is not None and entry.value not in (None, "", "."):
        inner = inside(root, str(entry.value))
        if inner is None or not (root / inner).is_dir():
            raise DataError(
                f"{entry.place}: path: expected a folder within {root}, found "
                f"{shown_value(entry.value)}; leave it out where the data is beside this file"
            )
        root = root / inner
    return Dataset(file, root, entries)


def inside(root: Path, text: str) -> str | None:
    """``text``, a path in ``root`` or an absolute one, relative to it; None where it leads out.

    An exporter writes ``../train/images`` for the folder beside the file: it is found there.
    """
    if Path(text).is_absolute():
        try:
            text = Path(text).relative_to(root.absolute()).as_posix()
        except ValueError:
            return None
    text = os.path.normpath(text.replace("\\", "/"))
    if text.startswith("../") and (root / text[3:]).exists():
        text = text[3:]
    return text if text == "." or fault_of_name(text) is None else None


def class_names(dataset: Dataset, faults: Faults) -> tuple[str, ...]:
    """The classes in the order of their indices."""
    entry, count = dataset.entries.get("names"), dataset.entries.get("nc")
    expected = "a name for each class, as a list ([cat, dog]) or as index: name"
    if entry is None:
        faults.add("class-names", "names", expected, "no such key")
        return ()
    names: list[Any] = entry.value if isinstance(entry.value, list) else []
    if isinstance(entry.value, dict):
        numbers = range(len(entry.value))
        missing = [number for number in numbers if str(number) not in entry.value]
        if missing:
            keys = f"none for {missing[0]} among {shown_value(list(entry.value))}"
            faults.add("class-names", _at(entry), f"{expected} from 0 on", keys)
            return ()
        names = [entry.value[str(number)] for number in numbers]
    if not names:
        faults.add("class-names", _at(entry), expected, shown_value(entry.value))
    names = [str(name) if type(name) in (int, float, bool) else name for name in names]
    for number, name in enumerate(names):
        if not is_name(name):
            faults.add("class-names", f"{_at(entry)}[{number}]", "a name", shown_value(name))
        elif (first := names.index(name)) < number:
            found = f"{shown_value(name)}, as at [{first}]"
            faults.add("same-name", f"{_at(entry)}[{number}]", "a name of its own", found)
    if count is not None and names and count.value != len(names):
        found = f"{len(names)} names"
        faults.add("class-names", _at(entry), f"{shown_value(count.value)} (nc) names", found)
    return tuple(name if is_name(name) else shown_value(name) for name in names)


def image_names(
    dataset: Dataset, split: str, within: Path | None, faults: Faults
) -> tuple[list[str], list[str]]:
    """File names of a split's images, relative to the root, and where each one stands.

    Args:
        dataset: the data set.
        split: our word for it.
        within: the folder that folders and lists must stay in; None: they may be links out of it.
        faults: collects.
    """
    entry = dataset.entry(split)
    if entry is None:
        faults.add("section", split, "a folder or a list of images", "no such key")
        return [], []
    names, places = [], []
    for item in entry.value if isinstance(entry.value, list) else [entry.value]:
        place = f"{_at(entry)} ({split})"
        path = _path_of(dataset, str(item), place, within, faults)
        for name, place in () if path is None else _images_of(dataset, path, faults):
            names.append(name)
            places.append(place)
    if not names and not len(faults):
        found = f"none in {shown_value(entry.value)}"
        faults.add("section", f"{_at(entry)} ({split})", "at least one image", found)
    return names, places


def label_name(name: str) -> str:
    """The label file of an image: ``labels`` for the last folder ``images``, and ``.txt``."""
    folders = list(_IMAGES.finditer(name))
    if folders:
        name = name[: folders[-1].start()] + LABELS + name[folders[-1].end() :]
    return os.path.splitext(name)[0] + ".txt"  # noqa: PTH122 - of thousands of names


def _path_of(
    dataset: Dataset, item: str, place: str, within: Path | None, faults: Faults
) -> Path | None:
    """The folder or list that an entry names; None where there is none that may be read."""
    inner = inside(dataset.root, item)
    if inner is None:
        faults.add("file-name", place, f"a path within {dataset.root}", shown(item))
        return None
    path = dataset.root / inner
    if refuse_way_out(path, within, faults):
        return None
    if not path.is_dir() and not (path.suffix == ".txt" and path.is_file()):
        faults.add("missing-file", place, "a folder or a list of images", f"no such: {shown(item)}")
        return None
    return path


def _images_of(dataset: Dataset, path: Path, faults: Faults) -> Iterator[tuple[str, str]]:
    """Images of a folder, or of a list, each with the place where it stands."""
    if not path.is_dir():
        yield from _listed(dataset, path, faults)
        return
    inner = path.relative_to(dataset.root).as_posix()
    for name in _files_in(path, "" if inner == "." else f"{inner}/"):
        yield name, name


def _listed(dataset: Dataset, path: Path, faults: Faults) -> Iterator[tuple[str, str]]:
    for line, text in enumerate(listed_in(path), start=1):
        if not text:
            continue
        base = path.parent if text.startswith("./") else dataset.root
        inner = inside(base, text)
        if inner is None:
            faults.add("file-name", f"{path}:{line}", EXPECTED, shown(text))
        else:
            yield (base / inner).relative_to(dataset.root).as_posix(), f"{path}:{line}"


def _files_in(folder: Path, prefix: str) -> Iterator[str]:
    """Images below a folder, sorted; links to folders are not followed."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_in(folder / entry.name, f"{prefix}{entry.name}/")
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            yield prefix + entry.name


def _at(entry: Entry) -> str:
    """Line and column of a value."""
    return "line {} column {}".format(*entry.place.rsplit(":", 2)[1:])


def _is_data_file(path: Path) -> bool:
    try:
        with open_regular(path, "data file", DataError) as file:
            return _KEYS.search(file.read(100_000)) is not None
    except DataError:
        return False
