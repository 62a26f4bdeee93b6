# SPDX-License-Identifier: Apache-2.0
"""The files of one split of a data set, whatever its format, and the words for splits."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effdet.errors import printable

Format = Literal["coco", "voc", "yolo", "csv"]

TITLES: dict[Format, str] = {
    "coco": "COCO JSON",
    "voc": "Pascal VOC XML",
    "yolo": "YOLO txt",
    "csv": "CSV",
}
"""How messages call the formats."""

FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Our word for a split, and the words for it that exporters use."""


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """Where one split of a data set is.

    Attributes:
        format: how its annotations are written.
        name: ``train``, ``val``, ``test``: our word, whatever the folder calls it.
        annotations: what messages name: a JSON or CSV file, ``data.yaml``, the folder of VOC.
        images: folder that the table's file names are relative to.
        root: the data folder, of which nothing may be a link that leads out; None where paths were
            given by themselves.
        siblings: annotations of the data set's other splits, with which this one shares its
            classes where a format has no list of them.
    """

    format: Format
    name: str
    annotations: Path
    images: Path
    root: Path | None = None
    siblings: tuple[Path, ...] = ()

    def within(self, path: Path, follow_links: bool) -> Path | None:
        """The folder that links of ``path`` must stay in; None: they may lead anywhere."""
        if follow_links:
            return None
        return self.root if self.root is not None and path.is_relative_to(self.root) else path


def our_word(split: str) -> str:
    """``val`` for ``valid``; a word that is not known stays."""
    return next((ours for ours, words in FOLDERS.items() if split.lower() in words), split)


def training_split(names: Iterable[str]) -> str | None:
    """The split to train on: ``train``, one that begins so, or the only one that may be it."""
    fit = [name for name in names if not name.startswith(("val", "test"))]
    begin = sorted(name for name in fit if name.startswith("train"))
    return next(iter(begin or (fit if len(fit) == 1 else [])), None)


def validation_split(names: Iterable[str]) -> str | None:
    """The split to validate on: ``val``, or one that begins so."""
    return min((name for name in names if name.startswith("val")), default=None)


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders ``train/``, ``val/`` or ``valid/`` and ``test/`` that are there, by our word."""
    found: dict[str, Path] = {}
    for ours, words in FOLDERS.items():
        for word in words:
            if (folder / word).is_dir():
                found.setdefault(ours, folder / word)
    return found


def contents(folder: Path) -> str:
    """What is in ``folder``, for the end of an error message."""
    if not folder.is_dir():
        return f"there is no folder {printable(str(folder))}"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return f"the folder holds {listed(names) or 'nothing'}"


def listed(names: Iterable[str]) -> str:
    """The first eight of ``names``, printable."""
    names = list(names)
    text = ", ".join(map(printable, names[:8]))
    return text + (f" and {len(names) - 8} more" if len(names) > 8 else "")
