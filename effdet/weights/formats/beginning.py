# SPDX-License-Identifier: Apache-2.0
"""The beginning of weights files: what they are, and what people get in their place."""

from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path

from effdet.errors import WeightsError
from effdet.files.regular import open_regular

_HEAD = 64
"""Bytes that tell what a file is."""


def opened(path: Path) -> AbstractContextManager[BufferedReader]:
    """The file, as :func:`~effdet.files.regular.open_regular` opens it.

    Raises:
        WeightsError: where there is none, it is a pipe, device or folder, or reading it fails.
    """
    return open_regular(path, "weights file", WeightsError)


def read_head(path: Path) -> bytes:
    """The first bytes of the file.

    Raises:
        WeightsError: as :func:`opened`.
    """
    with opened(path) as file:
        return file.read(_HEAD)


def instead_of_weights(head: bytes) -> str:
    """What a file that begins with ``head`` is, where people often get it in place of weights."""
    start = head.lstrip().lower()
    if not head:
        return "an empty file; get it again"
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page, not weights: the download failed or wants a login; get it again"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; get that with `git lfs pull`"
    if start.startswith((b"{", b"[")) and b"\0" not in head:
        return "JSON, not weights"
    return ""
