# SPDX-License-Identifier: Apache-2.0
"""COCO 2017, fetched from its official archives: resumed, verified, unpacked, laid out to train on.

The addresses are those of the download page (https://cocodataset.org/#download), through the name
of the same storage that has a certificate: ``images.cocodataset.org`` itself is http alone.
"""

import errno
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from effdet.annotations import fault_of_name
from effdet.bars import Bar
from effdet.errors import DataError, UsageError, shown
from effdet.files import WriteError, megabytes, replace_text, write_error
from effdet.files.folder_lock import FolderLock
from effdet.files.regular import hash_rest
from effdet.web import UnreachableError, copy_url, forget, say

HOST = "https://s3.amazonaws.com/images.cocodataset.org"
NOTE = ".coco2017.json"
"""In the data folder: the SHA-256 of the archives that are unpacked in it."""

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A part of the data set.

    Attributes:
        url: address of the zip file.
        size: its bytes.
        sha256: of these, in hex.
        folder: the one folder in it.
        unpacked: bytes that are enough for what is in it.
        terms: what it may be used for.
    """

    url: str
    size: int
    sha256: str
    folder: str
    unpacked: int
    terms: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


def _images(folder: str, *, size: int, sha256: str, unpacked: int) -> Archive:
    return Archive(
        url=f"{HOST}/zips/{folder}.zip",
        size=size,
        sha256=sha256,
        folder=folder,
        unpacked=unpacked,
        terms="images under the terms of Flickr and of their authors",
    )


# Sizes and SHA-256 as TensorFlow Datasets and others record them for these files; COCO itself
# publishes none.
COCO2017 = {
    "annotations": Archive(
        url=f"{HOST}/annotations/annotations_trainval2017.zip",
        size=252_907_541,
        sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        folder="annotations",
        unpacked=1_000_000_000,
        terms="CC BY 4.0",
    ),
    "val": _images(
        "val2017",
        size=815_585_330,
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        unpacked=850_000_000,
    ),
    "train": _images(
        "train2017",
        size=19_336_861_798,
        sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        unpacked=20_000_000_000,
    ),
}
"""The parts, the smallest first."""


def download_coco2017(output: str | Path, parts: Sequence[str] = ()) -> Path:
    """Have the data set, or parts of it, in a folder in COCO's layout.

    What an earlier call has fetched or unpacked is not fetched again.

    Args:
        output: the folder.
        parts: keys of :data:`COCO2017`; by default all.

    Raises:
        UsageError: where a folder that is to be made is there already and not of this data set.
        DataError: where an archive cannot be reached, or what came is not what was published, which
            is then deleted.
        WriteError: where the folder cannot be written or the disk is too small.
    """
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    with FolderLock(folder):
        wanted = [archive for name, archive in COCO2017.items() if not parts or name in parts]
        missing = [archive for archive in wanted if not _is_done(folder, archive)]
        for archive in wanted:
            if archive not in missing:
                say(f"{folder / archive.folder} is there already")
        _check_room(folder, missing)
        for archive in missing:
            _fetch(folder, archive)
            _unpack(folder, archive)
            _note_done(folder, archive)
    return folder


def _is_done(folder: Path, archive: Archive) -> bool:
    """Whether a part is unpacked already.

    Raises:
        UsageError: where something else has its name.
    """
    target = folder / archive.folder
    if not target.exists():
        return False
    if _notes(folder).get(archive.folder) == archive.sha256:
        return True
    raise UsageError(
        f"{target} exists and is not from this command; move it, or give another --output"
    )


def _check_room(folder: Path, missing: Iterable[Archive]) -> None:
    """Refuse to begin what the disk cannot hold: all that is unpacked, and an archive at a time."""
    need, most = 0, 0
    for archive in missing:
        here = max(_size(folder / f"{archive.name}{end}") for end in (".part", ""))
        most = max(most, need + max(0, archive.size - here) + archive.unpacked)
        need += archive.unpacked - here
        say(f"{archive.name}: {megabytes(archive.size)} from {archive.url} ({archive.terms})")
    free = shutil.disk_usage(folder).free
    if most > free:
        raise WriteError(
            errno.ENOSPC,
            f"{folder}: needs {megabytes(most)} on its disk, free are {megabytes(free)}; "
            "--parts takes less, --output another disk",
        )


def _fetch(folder: Path, archive: Archive) -> None:
    """Have the archive whole and verified beside where it is unpacked."""
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.is_file():  # of a call that was stopped while it unpacked, or put there by hand
        if _digest(path, archive) != archive.sha256:
            raise DataError(f"{path}: not the published file; delete it, and it is fetched")
        return
    try:
        copy_url(archive.url, part, lambda start, _: _announce(archive, start), archive.size)
    except UnreachableError as error:
        raise DataError(
            f"{archive.name}: {error}; try again later, or fetch {archive.url} elsewhere and put "
            f"it at {path}"
        ) from error
    if (found := _digest(part, archive)) != archive.sha256:
        forget(part)
        part.unlink()
        raise DataError(
            f"{archive.name}: what {archive.url} gives is not the published file and was deleted: "
            f"expected sha256 {archive.sha256}, found {found}"
        )
    forget(part)
    part.replace(path)


def _announce(archive: Archive, start: int) -> None:
    before = f", {megabytes(start)} are here" if start else ""
    say(f"fetching {archive.name} ({megabytes(archive.size)}{before})")


def _digest(path: Path, archive: Archive) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file, _bytes_bar(f"verifying {archive.name}", _size(path)) as bar:
        return hash_rest(file, told=bar.update).hexdigest()


def _unpack(folder: Path, archive: Archive) -> None:
    """Unpack the archive beside its folder, and give it that name when it is whole."""
    path, part = folder / archive.name, folder / f".{archive.folder}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as file:
            members = _members(file, archive)
            size = sum(member.file_size for member in members)
            with _bytes_bar(f"unpacking {archive.name}", size) as bar:
                for member in members:
                    _write_member(file, member, part, bar)
        (part / archive.folder).replace(folder / archive.folder)
        part.rmdir()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be unpacked: {error}; delete it and try again") from error
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise write_error(part, error) from error
    path.unlink()


def _members(file: zipfile.ZipFile, archive: Archive) -> list[zipfile.ZipInfo]:
    """The files of an archive, all within its one folder and together no larger than known.

    Raises:
        DataError: for any other.
    """
    members = [member for member in file.infolist() if not member.is_dir()]
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        inside = member.filename.startswith(f"{archive.folder}/")
        if fault_of_name(member.filename) or not inside or kind not in (0, stat.S_IFREG):
            raise DataError(
                f"{archive.name}: expected files in {archive.folder}/, found "
                f"{shown(member.filename)}"
            )
    size = sum(member.file_size for member in members)
    if size > archive.unpacked:
        raise DataError(
            f"{archive.name}: expected at most {megabytes(archive.unpacked)} in it, found "
            f"{megabytes(size)}"
        )
    return members


def _write_member(file: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, bar: Bar) -> None:
    """Write a file of an archive, no more of it than the archive says there is."""
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with file.open(member) as source, target.open("xb") as output:
        while block := source.read(_BLOCK):  # zipfile stops at the declared size and checks the CRC
            output.write(block)
            bar.update(len(block))


def _note_done(folder: Path, archive: Archive) -> None:
    notes = _notes(folder) | {archive.folder: archive.sha256}
    replace_text(folder / NOTE, json.dumps(notes, indent=1) + "\n")
    say(f"{folder / archive.folder} has the published content")


def _notes(folder: Path) -> dict[str, str]:
    try:
        notes = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _bytes_bar(text: str, total: int) -> Bar:
    return Bar(desc=text, total=total, unit="B", unit_scale=True, leave=False, disable=None)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - one call
    except OSError:
        return 0
