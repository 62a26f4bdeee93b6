# SPDX-License-Identifier: Apache-2.0
"""Image files against their records: missing, unknown, named alike."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from effdet.annotations import Faults, check_image_files
from effdet.annotations.faults import MAX_FAULTS
from effdet.check.findings import Example, Findings
from effdet.check.reading import Split
from effdet.check.registry import OF_FAULT
from effdet.data.image_file import IMAGE_SUFFIXES
from effdet.errors import shown

ENDINGS = (*IMAGE_SUFFIXES, ".jfif", ".heic", ".avif")
"""Of files that somebody may have meant to use."""


def check_files(
    splits: Sequence[Split], findings: Findings, *, follow_links: bool, all_splits: bool
) -> list[Split]:
    """Look for the files of all records and the records of all files.

    Args:
        splits: as they were read.
        findings: collects.
        follow_links: let links lead out of the image folders.
        all_splits: whether these are all splits, so that a file without record is in none.

    Returns:
        The splits, which know now the files that are there.
    """
    found = [_with_present(split, findings, follow_links) for split in splits]
    for split in found:
        _check_twice(split, findings)
    _check_shared(found, findings)
    if all_splits:
        _check_folders(found, findings)
    return found


def _with_present(split: Split, findings: Findings, follow_links: bool) -> Split:
    names, ids = list(split.table.file_names), split.table.image_ids.tolist()
    faults = Faults(split.table.name, keep=MAX_FAULTS)
    folder = split.files.images
    within = split.files.within(folder, follow_links)
    check_image_files(names, ids, folder, faults, within=within, place=str)
    present, others = split.present.copy(), _Listing(folder)
    for fault in faults.kept:
        row = int(fault.place)
        present[row] = False
        text = f"image {fault.image_id}: {fault.found}" if split.has_ids else fault.found
        if fault.kind == "missing-file":
            text += others.advice(names[row])
        example = Example(split=split.name, text=text, file=names[row])
        findings.add(OF_FAULT[fault.kind], split.name, [example], 1)
    return replace(split, present=present)


class _Listing:
    """The names in a folder, by what they are without case and ending; listed when first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, str] | None = None

    def advice(self, name: str) -> str:
        """What else there is that may have been meant."""
        if self._names is None:
            self._names = {_plain(found): found for found in walk_files(self._folder)}
        found = self._names.get(_plain(name))
        return "" if found is None else f"; there is {shown(found)}"


def _plain(name: str) -> str:
    return Path(name).stem.lower()


def walk_files(folder: Path) -> Iterator[str]:
    """Paths of all files below ``folder``, relative and with ``/``; links are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        start = Path(parent).relative_to(folder).as_posix()
        for name in sorted(names):
            yield name if start == "." else f"{start}/{name}"


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _check_twice(split: Split, findings: Findings) -> None:
    """Records of the same file, and names that differ in capitals alone."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(split.table.file_names):
        if name:
            rows[name].append(row)
    for found in rows.values():
        if len(found) > 1:
            ids = ", ".join(str(split.table.image_ids[row]) for row in found[:8])
            text = f"images {ids}" if split.has_ids else f"{len(found)} times"
            example = split.image_example(found[0], text)
            findings.add("files.listed_twice", split.name, [example], len(found) - 1)
    for names in _colliding(rows):
        example = split.image_example(rows[names[0]][0], " and ".join(map(shown, names)))
        findings.add("files.case_collision", split.name, [example], len(names) - 1)


def _colliding(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that are the same but for capitals."""
    folded: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folded[name.casefold()].append(name)
    return [group for group in folded.values() if len(group) > 1]


def _check_shared(splits: Sequence[Split], findings: Findings) -> None:
    """Files that two splits have records of."""
    first: dict[str, tuple[Split, int]] = {}
    for split in splits:
        folder = os.path.realpath(split.files.images)
        for row in np.flatnonzero(split.present).tolist():
            name = split.table.file_names[row]
            other, other_row = first.setdefault(f"{folder}/{name}", (split, row))
            if other is not split:
                also = other.table.image_ids[other_row] if other.has_ids else name
                text = f"image {also} of {other.name} is the same file"
                example = split.image_example(row, text)
                findings.add("splits.leakage_exact", split.name, [example], 1)


def _check_folders(splits: Sequence[Split], findings: Findings) -> None:
    """Image files that no record names."""
    by_folder: dict[str, list[Split]] = defaultdict(list)
    for split in splits:
        by_folder[os.path.realpath(split.files.images)].append(split)
    # A folder within another one: its files are records of the inner.
    known: Counter[str] = Counter()
    for folder, inside in by_folder.items():
        known.update(f"{folder}/{name}" for split in inside for name in split.table.file_names)
    seen: set[str] = set()
    for folder, inside in by_folder.items():
        names = [name for name in walk_files(Path(folder)) if name.lower().endswith(ENDINGS)]
        if inside[0].files.format == "yolo":  # the whole data folder, of whatever is in it
            used = {_folder_of(name) for split in inside for name in split.table.file_names}
            names = [name for name in names if _folder_of(name) in used]
        paths = {f"{folder}/{name}": name for name in names}
        orphans = [path for path in paths if path not in known and path not in seen]
        seen.update(orphans)
        split = inside[0]
        findings.add(
            "files.orphan",
            split.name,
            (
                Example(split=split.name, text="no record", file=paths[path], path=Path(path))
                for path in orphans
            ),
            len(orphans),
        )
