# SPDX-License-Identifier: Apache-2.0
"""A PyTorch file that carries the SHA-256 of its own bytes.

``torch.load`` does not notice a changed byte. The digest of all bytes before it stands in the end
comment of the zip file, as ``effdet sha256:...``, so that ``torch.load`` still reads the file.
"""

import hashlib
import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from effdet.errors import WeightsError
from effdet.files.regular import hash_rest
from effdet.weights.formats.beginning import opened

_MARK = b"effdet sha256:"
_DIGEST_BYTES = len(_MARK) + 64
_ZIP_END_BYTES = 22
"""Of the record that ends a zip file without comment; its last two are the comment's length."""


def save_with_digest(values: Any, file: BinaryIO) -> None:
    """``torch.save``, followed by the SHA-256 of every byte before it as the zip's comment."""
    output = _DigestOutput(file)
    try:
        torch.save(values, cast(BinaryIO, output))
    except Exception:
        # Behind a failed write torch raises errors of its own.
        if output.error is not None:
            raise output.error from None
        raise
    output.finish()


def has_mark(path: Path) -> bool:
    """Whether the file ends as one that :func:`save_with_digest` wrote, right or wrong."""
    try:
        with opened(path) as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _DIGEST_BYTES, 0))
            return file.read().startswith(_MARK)
    except WeightsError:
        return False


def check_digest(path: Path) -> bool:
    """Whether the file ends with a digest, which then is right.

    Raises:
        WeightsError: where it is not, or the file cannot be read.
    """
    with opened(path) as file:
        size = max(os.fstat(file.fileno()).st_size - _DIGEST_BYTES, 0)
        file.seek(size)
        found = re.fullmatch(_MARK + rb"([0-9a-f]{64})", file.read())
        if found is None:
            return False
        file.seek(0)
        compare_digest(found[1], hash_rest(file, size=size), path)
    return True


def compare_digest(expected: bytes, found: "hashlib._Hash", path: Path) -> None:
    """Refuse a file whose bytes do not have the digest that stands in it, in hex.

    Raises:
        WeightsError: with the beginnings of both.
    """
    if found.hexdigest().encode() != expected:
        raise WeightsError(
            f"{path}: damaged: not the bytes that were written "
            f"(expected sha256 {expected[:16].decode()}..., found {found.hexdigest()[:16]}...)"
        )


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of the whole file, in hex.

    Raises:
        WeightsError: where it cannot be read.
    """
    with opened(Path(path)) as file:
        return hash_rest(file).hexdigest()


class _DigestOutput:
    """Passes bytes on and hashes them; holds back the record that ends the zip file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.end = b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) >= _ZIP_END_BYTES:
            self._pass_on(self.end)
            self._pass_on(view[:-_ZIP_END_BYTES])
            self.end = bytes(view[-_ZIP_END_BYTES:])
        else:
            joined = self.end + bytes(view)
            self._pass_on(joined[:-_ZIP_END_BYTES])
            self.end = joined[-_ZIP_END_BYTES:]
        return len(view)

    def flush(self) -> None:
        self.file.flush()

    def finish(self) -> None:
        assert self.end.startswith(b"PK\x05\x06"), "torch.save wrote no plain zip file"
        self._pass_on(self.end[:-2] + struct.pack("<H", _DIGEST_BYTES))
        self.file.write(_MARK + self.digest.hexdigest().encode())

    def _pass_on(self, data: bytes | memoryview) -> None:
        self.digest.update(data)
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
