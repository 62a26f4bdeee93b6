# SPDX-License-Identifier: Apache-2.0
"""The files that ``file_name`` means: inside the image folder, whatever an annotation file says."""

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from effdet.annotations import links
from effdet.annotations.faults import Fault, Faults
from effdet.errors import shown

MAX_NAME, MAX_PATH = 255, 4000
"""Bytes of a file's name and of a path, as on every system."""

EXPECTED = "a path within the image folder"

# As most names are; all others are looked at more closely.
_USUAL = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*", re.ASCII)
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_DRIVE = re.compile(r"[A-Za-z]:")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def fault_of_name(name: str) -> str | None:
    """Why ``name`` is no path that stays within a folder, on any system; None where it is one."""
    if len(name) <= MAX_NAME and _USUAL.fullmatch(name):
        return None
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_PATH:
        return f"{size:,} bytes, more than {MAX_PATH:,}"
    if _CONTROLS.search(name):
        return "a control character"
    if "\\" in name:
        return "a backslash (folders are separated by /)"
    # Some file systems take letters that only look like these for the same.
    for form in (name, unicodedata.normalize("NFKC", name)):
        if form.startswith("/"):
            return "an absolute path"
        if _SCHEME.match(form):
            return "a URL"
        if _DRIVE.match(form):
            return "a drive"
        parts = form.split("/")
        if any(_is_upwards(part) for part in parts):
            return "a way out of the folder"
        if not parts[-1].strip(" ."):
            return "a folder"
    if any(len(part.encode("utf-8", "surrogatepass")) > MAX_NAME for part in name.split("/")):
        return f"a part of more than {MAX_NAME} bytes"
    return None


def _is_upwards(part: str) -> bool:
    """Whether a part of a path means the folder above: some systems drop blanks and points."""
    return not part.strip(" .") and part.count(".") >= 2


class _Records(NamedTuple):
    """What messages say of images: arguments of :func:`check_image_files`."""

    names: Sequence[str]
    image_ids: Sequence[int]
    place: Callable[[int], str]

    def refuse(self, kind: str, expected: str, reasons: dict[int, str], faults: Faults) -> None:
        """Take the faults of the images at some positions."""

        def describe(index: int) -> Fault:
            return Fault(
                kind=kind,
                place=self.place(index),
                expected=expected,
                found=f"{reasons[index]}: {shown(self.names[index])}",
                image_id=int(self.image_ids[index]),
            )

        faults.add_rows(reasons, describe)


def check_names(
    names: Sequence[str],
    image_ids: Sequence[int],
    faults: Faults,
    place: Callable[[int], str] = "images[{}].file_name".format,
) -> Collection[int]:
    """Refuse names that are no paths within a folder; arguments as :func:`check_image_files`.

    Returns:
        The positions of these.
    """
    reasons = {k: why for k, name in enumerate(names) if (why := fault_of_name(name)) is not None}
    _Records(names, image_ids, place).refuse("file-name", EXPECTED, reasons, faults)
    return reasons


def check_image_files(
    names: Sequence[str],
    image_ids: Sequence[int],
    folder: Path,
    faults: Faults,
    *,
    within: Path | None,
    place: Callable[[int], str] = "images[{}].file_name".format,
) -> None:
    """Refuse names that leave ``folder`` and files that are not there.

    Better now than hours into a training.

    Args:
        names: file names of the images, relative to ``folder``.
        image_ids: their ids.
        folder: the image folder.
        faults: collects.
        within: the data folder, out of which no link may lead; None: links may lead anywhere.
        place: where a name stands.
    """
    refused = check_names(names, image_ids, faults, place)
    wrong: dict[str, dict[int, str]] = {"missing-file": {}, "link": {}}
    look = FileLooker(folder, within)
    for index, name in enumerate(names):
        kind, reason = ("", "") if index in refused else look.fault_of_file(name)
        if kind:
            wrong[kind][index] = reason
    expected = {"missing-file": f"a file in {shown(str(folder))}", "link": links.EXPECTED}
    for kind, reasons in wrong.items():
        _Records(names, image_ids, place).refuse(kind, expected[kind], reasons, faults)


class FileLooker:
    """Looks files up in listings of their folders: one call a folder, not one a file.

    Args:
        folder: names are relative to it.
        within: the folder out of which no link may lead; None: links may lead anywhere.
    """

    def __init__(self, folder: Path, within: Path | None) -> None:
        self._folder, self._within = folder, within
        self._listings: dict[str, dict[str, str]] = {}
        self._outside: dict[str, str | None] = {}

    def fault_of_file(self, name: str) -> tuple[str, str]:
        """Kind and reason where the file ``name`` cannot be read; both empty where it can."""
        parent, _, last = name.rpartition("/")
        if parent not in self._listings:
            self._listings[parent] = _listing(self._folder / parent)
            self._outside[parent] = links.way_out(self._folder / parent, self._within)
        if (link := self._outside[parent]) is not None:
            return "link", link
        kind = self._listings[parent].get(last)
        return ("", "") if kind == "file" else self._fault_of_odd(self._folder / name, kind)

    def _fault_of_odd(self, path: Path, kind: str | None) -> tuple[str, str]:
        """The same for a link, or for a name that its folder's listing does not have."""
        if kind is None and not _exists(path):  # some systems write a name in another way
            return "missing-file", "no such file"
        if kind != "other" and (link := links.way_out(path, self._within)) is not None:
            return "link", link
        if not path.is_file():
            return "missing-file", "no regular file"
        return "", ""


def _listing(folder: Path) -> dict[str, str]:
    """What each name in ``folder`` is: ``file``, ``link`` or ``other``; empty without a folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _kind(entry) for entry in entries}
    except (OSError, ValueError):
        return {}


def _kind(entry: "os.DirEntry[str]") -> str:
    if entry.is_symlink():
        return "link"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
