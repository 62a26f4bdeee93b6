# SPDX-License-Identifier: Apache-2.0
"""The directory of an uncompressed zip file, read so strictly that no other reader sees another.

Zip readers disagree on files with two directories, names that differ in case, entries that lie on
each other: a check with one of them says nothing of what the next one reads. Only what
``torch.save`` writes is accepted here.
"""

import os
import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from effdet.errors import WeightsError

MAGIC = b"PK\x03\x04"
"""A zip file's first bytes."""

MAX_DIRECTORY = 8 * 2**20
"""Bytes; a hundred thousand tensors need less."""

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 2**16
_ENCRYPTED = 1
_IN_EXTRA = 2**32 - 1
"""A size or offset that does not fit and stands in the entry's extra field."""


class Entry(NamedTuple):
    """Where the bytes of an entry are.

    Attributes:
        offset: of its first byte in the file.
        size: in bytes.
        crc32: as recorded; 0 where none was.
    """

    offset: int
    size: int
    crc32: int


class _Header(NamedTuple):
    """What the directory says of an entry; ``offset`` is that of the header before its bytes."""

    name: bytes
    offset: int
    size: int
    crc32: int
    plain: bool


def read_directory(file: BinaryIO, path: Path) -> dict[str, Entry]:
    """The entries by name, without the folder that all of them are in.

    Raises:
        WeightsError: where the file is cut, or no plain uncompressed zip file of one folder.
    """
    try:
        start, end, count = _find_directory(file, path)
        headers = _headers(os.pread(file.fileno(), end - start, start), count, path)
        _check_names(headers, path)
        entries = [_locate(file, header, start, path) for header in headers]
    except (struct.error, IndexError) as error:
        raise _damaged(path, "its directory is cut") from error
    _check_apart(headers, entries, start, path)
    return {h.name.split(b"/", 1)[1].decode("ascii"): e for h, e in zip(headers, entries)}


def _find_directory(file: BinaryIO, path: Path) -> tuple[int, int, int]:
    """Start and end of the directory, and the number of its entries."""
    size = os.fstat(file.fileno()).st_size
    tail_start = max(size - _END.size - _MAX_COMMENT, 0)
    tail = os.pread(file.fileno(), size - tail_start, tail_start)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0:
        raise _damaged(path, "cut at its end")
    record = _END.unpack_from(tail, found)
    _, disk, first_disk, here, count, length, start, comment = record
    end = tail_start + found
    if end + _END.size + comment != size:
        raise _damaged(path, "bytes after its end, or cut there")
    numbers = (disk, first_disk, here, count, length, start)
    locator = os.pread(file.fileno(), _LOCATOR64.size, max(end - _LOCATOR64.size, 0))
    if locator.startswith(b"PK\x06\x07"):
        end = _LOCATOR64.unpack(locator)[2]
        if end + _END64.size + len(locator) != tail_start + found:
            raise _damaged(path, "two ends that contradict each other")
        found64 = _END64.unpack(os.pread(file.fileno(), _END64.size, end))
        if found64[0] != b"PK\x06\x06":
            raise _damaged(path, "two ends that contradict each other")
        long = found64[4:]
        for value, unknown, value64 in zip(numbers, (0xFFFF,) * 4 + (_IN_EXTRA,) * 2, long):
            if value not in (value64, unknown):
                raise _damaged(path, "two ends that contradict each other")
        disk, first_disk, here, count, length, start = long
    if disk or first_disk or here != count or start + length != end:
        raise _damaged(path, "its directory is not where its end says")
    if length > MAX_DIRECTORY:
        raise WeightsError(f"{path}: not read: a directory of {length} bytes")
    return start, end, count


def _headers(content: bytes, count: int, path: Path) -> list[_Header]:
    headers, at = [], 0
    while at < len(content):
        fields = _CENTRAL.unpack_from(content, at)
        magic, _, _, flags, method, _, _, crc32, packed, size = fields[:10]
        name_length, extra_length, comment_length, _, _, _, offset = fields[10:]
        at += _CENTRAL.size
        name = content[at : at + name_length]
        extra = content[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        if magic != b"PK\x01\x02" or len(name) < name_length or at > len(content):
            raise _damaged(path, "its directory is cut")
        size, packed, offset = _long_numbers(size, packed, offset, extra)
        plain = method == 0 and size == packed and not flags & _ENCRYPTED
        headers.append(_Header(name, offset, size, crc32, plain))
    if len(headers) != count:
        raise _damaged(path, f"{len(headers)} entries, expected {count}")
    return headers


def _long_numbers(size: int, packed: int, offset: int, extra: bytes) -> tuple[int, int, int]:
    """The three numbers, from the extra field where they are too large for their own."""
    if _IN_EXTRA not in (size, packed, offset):
        return size, packed, offset
    at = 0
    while (found := struct.unpack_from("<HH", extra, at))[0] != 1:
        at += 4 + found[1]
    values = list(struct.unpack_from(f"<{found[1] // 8}Q", extra, at + 4))
    numbers = [values.pop(0) if n == _IN_EXTRA else n for n in (size, packed, offset)]
    return numbers[0], numbers[1], numbers[2]


def _locate(file: BinaryIO, header: _Header, directory: int, path: Path) -> Entry:
    """Where the bytes of an entry begin, from the header that stands before them."""
    if not header.plain:
        raise WeightsError(
            f"{path}: not read: entry {_shown(header)} is compressed or encrypted, which "
            "torch.save does not do"
        )
    if header.offset >= directory:
        raise _damaged(path, f"entry {_shown(header)} lies behind the directory")
    content = os.pread(file.fileno(), _LOCAL.size + len(header.name), header.offset)
    magic, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack_from(content)
    name = content[_LOCAL.size :][:name_length]
    if magic != MAGIC or name != header.name or method != 0 or flags & _ENCRYPTED:
        raise _damaged(path, f"entry {_shown(header)} is not where the directory says")
    offset = header.offset + _LOCAL.size + name_length + extra_length
    return Entry(offset, header.size, header.crc32)


def _check_apart(headers: list[_Header], entries: list[Entry], directory: int, path: Path) -> None:
    """Refuse entries that lie on each other: a few bytes would become any number of them."""
    ordered = sorted(zip(headers, entries), key=lambda pair: pair[0].offset)
    if ordered[0][0].offset != 0:
        raise _damaged(path, "bytes before its first entry")
    limits = [header.offset for header, _ in ordered[1:]] + [directory]
    for (header, entry), limit in zip(ordered, limits):
        if entry.offset + entry.size > limit:
            raise _damaged(path, f"entry {_shown(header)} runs into what follows it")


def _check_names(headers: list[_Header], path: Path) -> None:
    # The folder has the name that the file once had, in any language.
    folders = {header.name.split(b"/", 1)[0] for header in headers}
    inner = [header.name.partition(b"/")[2] for header in headers]
    if (
        len(folders) != 1
        or b"\0" in next(iter(folders))
        or not all(re.fullmatch(rb"[!-~]+", name) for name in inner)
    ):
        raise WeightsError(f"{path}: a zip file, but not one that torch.save has written")
    if any(name == b"constants.pkl" or name.startswith(b"code/") for name in inner):
        raise WeightsError(
            f"{path}: a TorchScript program, which holds code and is not read; save the model's "
            "state_dict instead"
        )
    # PyTorch's reader looks entries up without regard to case.
    if len({name.lower() for name in inner}) < len(inner):
        raise WeightsError(f"{path}: not read: two entries of one name")


def _shown(header: _Header) -> str:
    return ascii(header.name.decode("latin1"))[:80]


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"{path}: damaged: {reason}")
