# SPDX-License-Identifier: Apache-2.0
"""Public weights on this machine: fetched once, verified, and used from the disk ever after.

They lie in the folder ``weights`` of the cache under their published names, each with a ``.json``
that tells its address, SHA-256, size and date. A file is hashed when it is fetched or found there
without that note, and again whenever its size or time of change is not the noted one.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from effdet.cache import ADVICE, cache_folder
from effdet.config import IMAGENET_MEAN
from effdet.errors import UsageError, WeightsError, nearest
from effdet.files import WriteError, megabytes, replace_text, write_error
from effdet.files.folder_lock import FolderLock
from effdet.web import UnreachableError, copy_url, forget, say
from effdet.weights.digest import sha256_of
from effdet.weights.releases import RELEASES, Release, release_of_file

_SUFFIXES = {
    ".pt", ".pth", ".tar", ".bin", ".ckpt", ".safetensors", ".h5", ".hdf5", ".keras", ".index",
}  # fmt: skip
_PATIENCE = 1.0
"""Seconds before a process says that it waits for another one's download."""


def weights_folder() -> Path:
    """Where public weights are kept; maybe not there yet."""
    return cache_folder() / "weights"


def resolve(weights: str | Path) -> Path:
    """The file that ``weights`` means: one that is there, or a public release, fetched if need be.

    Raises:
        WeightsError: where there is no such file, or the release cannot be had.
        UsageError: where it is neither a path nor the name of a release; the nearest are named.
        WriteError: where the cache cannot be written.
    """
    text = str(weights)
    if _is_there(text) or _is_there(f"{text}.index"):  # a TensorFlow checkpoint's prefix
        return Path(text)
    if text in RELEASES:
        return fetch(RELEASES[text])
    meant = release_of_file(text)
    hint = f"; the name {meant.name} fetches the release of that name" if meant else ""
    if "://" in text:
        hint = hint or "; fetch it yourself and give the path of the file"
        raise UsageError(f"{text}: addresses are not opened{hint}")
    if os.sep in text or text.startswith(("~", ".")) or Path(text).suffix in _SUFFIXES:
        raise WeightsError(f"{text}: no such weights file{hint}")
    raise UsageError(f"{text!r} is no file and no public release{_near(text)}")


def _is_there(text: str) -> bool:
    """Whether something has that name.

    Raises:
        WeightsError: where the system does not tell.
    """
    try:
        os.stat(text)  # noqa: PTH116 - Path.exists() lets some errors through
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a NUL
        return False
    except OSError as error:
        raise WeightsError(f"{text}: cannot be read ({error.strerror or error})") from error
    return True


def find_release(name: str) -> Release:
    """The release of that name.

    Raises:
        UsageError: where there is none; the nearest names are told.
    """
    if name not in RELEASES:
        raise UsageError(f"no public release {name!r}{_near(name)}")
    return RELEASES[name]


def fetch(release: Release) -> Path:
    """The file of a public release, from the cache or else from the network.

    Of several processes that ask at the same time one fetches it and the others wait.

    Raises:
        WeightsError: where it cannot be reached, or what came is not what was published, which is
            then deleted.
        WriteError: where the cache cannot be written or the disk is full.
    """
    path = weights_folder() / release.file_name
    if _is_verified(path, release):
        return path
    try:
        _make_folder(path.parent)
        with _turn(path) as is_alone:
            if not _is_verified(path, release):  # else another process was faster
                _download(release, path, is_alone)
    except WriteError as error:
        raise WriteError(error.errno, f"{error}; {ADVICE}") from error
    return path


def format_releases() -> str:
    """All releases for people, a line each."""
    rows = [("name", "model", "score", "input", "padding", "licence", "program", "here")]
    for release in RELEASES.values():
        rows.append(
            (
                release.name,
                release.model,
                "" if release.score is None else f"{release.score:.1f}",
                "ImageNet" if release.mean == IMAGENET_MEAN else "[-1, 1]",
                release.padding,
                release.licence,
                release.source,
                "yes" if (weights_folder() / release.file_name).is_file() else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(
        [
            *lines,
            "",
            "score: mAP on COCO val2017 or top-1 on ImageNet in %, as published; input: how RGB is",
            f"normalised, which happens by itself; here: in {weights_folder()}",
        ]
    )


def _near(text: str) -> str:
    """The end of an error message: releases of the same model, or of names like ``text``."""
    whole = re.compile(rf"(^|_){re.escape(text)}($|[._])")
    same = [name for name in RELEASES if whole.search(name)]
    near = f"; there are {', '.join(same)}" if same else nearest(text, RELEASES)
    return f"{near} (see effdet download --list)"


def _download(release: Release, path: Path, is_alone: bool) -> None:
    if path.exists():
        say(f"{path} is not the published file; it is fetched again")
    part = path.with_name(path.name + (".part" if is_alone else f".part-{os.getpid()}"))
    try:
        copy_url(release.url, part, lambda start, total: _announce(release, start, total))
    except UnreachableError as error:
        raise WeightsError(
            f"{release.name}: {error}; fetch {release.url} elsewhere and put it at {path}, or give "
            "the path of the file instead of the name"
        ) from error
    found = sha256_of(part)
    forget(part)
    if not found.startswith(release.sha256):
        part.unlink()
        more = "" if len(release.sha256) == len(found) else "..."
        raise WeightsError(
            f"{release.name}: what {release.url} gives is not the published file and was deleted: "
            f"expected sha256 {release.sha256}{more}, found {found}"
        )
    try:
        part.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    _write_note(path, release, found)
    say(f"{path} ({megabytes(path.stat().st_size)}) has the published sha256")


def _announce(release: Release, start: int, total: int | None) -> None:
    total = release.size if total is None else total
    size = "of unknown size" if total is None else megabytes(total)
    before = f", {megabytes(start)} are here" if start else ""
    say(f"fetching {release.name} ({size}{before}; {release.licence}) from {release.url}")


def _is_verified(path: Path, release: Release) -> bool:
    """Whether ``path`` is the published file; it is hashed where the note is not of it as it is."""
    if not path.is_file():
        return False
    status = path.stat()
    note = _read_note(path)
    if (note.get("size"), note.get("modified_ns")) == (status.st_size, status.st_mtime_ns):
        return str(note.get("sha256")).startswith(release.sha256)
    found = sha256_of(path)
    if not found.startswith(release.sha256):
        return False
    with contextlib.suppress(WriteError):  # then it is hashed each time
        _write_note(path, release, found)
    return True


def _read_note(path: Path) -> dict[str, object]:
    try:
        note = json.loads(_note_of(path).read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(path: Path, release: Release, sha256: str) -> None:
    status = path.stat()
    note = {
        "name": release.name,
        "url": release.url,
        "sha256": sha256,
        "licence": release.licence,
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "verified": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    replace_text(_note_of(path), json.dumps(note, indent=1) + "\n")


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[bool]:
    """Wait until no other process fetches ``path``; whether it is sure that none does."""
    name = f".{path.name}.lock"
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(FolderLock(path.parent, _PATIENCE, name))
        except UsageError:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                say(f"another process fetches {path.name}; waiting for it")
            lock = stack.enter_context(FolderLock(path.parent, math.inf, name))
        yield lock.held
