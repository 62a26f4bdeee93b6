# SPDX-License-Identifier: Apache-2.0
"""PyTorch's files: the zip form, and the one before PyTorch 1.6. The only place that loads them.

A file is first read through by :class:`~effdet.weights.formats.pickled.Pickle`, which runs nothing
and refuses whatever is neither a tensor nor a plain value. ``torch.load(weights_only=True)`` sees
only files that have passed; there is no other way into the package for a pickle.
"""

import functools
import os
import sys
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.errors import WeightsError
from effdet.weights.formats import archive
from effdet.weights.formats.beginning import instead_of_weights, opened
from effdet.weights.formats.pickled import MAX_BYTES, Pickle
from effdet.weights.formats.pickled_values import (
    MAX_KEY,
    MAX_NUMBER,
    NotAllowedError,
    Placed,
    Storage,
    StorageType,
    shown,
)
from effdet.weights.formats.plain import read_plain
from effdet.weights.formats.state_dicts import pick
from effdet.weights.tensor_file import StoredTensor, TensorFile

_OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of the number 0x1950A86A20F9469CFC6C, with which the old form begins."""

_OLD_VERSION = 1001

MAX_SHARING = 4
"""Tensors that lie in the same bytes: a layer that a model has twice has two names."""


@dataclass(frozen=True)
class Contents:
    """What a PyTorch file holds.

    Attributes:
        form: which of the two forms it has.
        value: plain values and containers, with a ``Placed`` for each tensor.
        inert: names of the classes and functions that a stand-in was read for.
    """

    form: str
    value: Any
    inert: tuple[str, ...]


def read_tensors(path: str | Path, check: Callable[[Any], object] | None = None) -> Any:
    """What is in a PyTorch file, on the CPU; only tensors and plain values are allowed.

    Args:
        path: the file.
        check: is given the value with a ``Placed`` for each tensor, before any is read; what it
            raises goes through.

    Raises:
        WeightsError: where the file is missing, damaged or holds anything else.
    """
    path = Path(path)
    with opened(path) as file:
        contents = _scan(file, path, inert=False)
        if check is not None:
            check(contents.value)
        del contents
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # there is no end to what damaged bytes make a reader raise
            raise WeightsError(f"{path}: damaged or not a PyTorch file") from error


def read_contents(path: str | Path, *, inert: bool = False) -> Contents:
    """What is in a PyTorch file, without reading a tensor.

    Args:
        path: the file.
        inert: read ``argparse.Namespace`` and NumPy's numbers and dtypes, which some programs put
            beside their weights, as a dict, plain numbers and strings.

    Raises:
        WeightsError: as :func:`read_tensors`.
    """
    path = Path(path)
    with opened(path) as file:
        return _scan(file, path, inert=inert)


def open_torch(path: str | Path, *, inert: bool = False) -> TensorFile:
    """The weights in a PyTorch file, out of whatever their program keeps beside them.

    Args:
        path: the file.
        inert: as in :func:`read_contents`.

    Raises:
        WeightsError: as :func:`read_tensors`; where there are no weights, or several.
    """
    path = Path(path)
    contents = read_contents(path, inert=inert)
    tensors, averages, values = pick(contents.value, path)
    _check_shared([*tensors.values(), *averages.values()], path)
    return TensorFile(
        path=path,
        form=contents.form,
        tensors=_stored(tensors, path),
        averages=_stored(averages, path),
        values=values,
        inert=contents.inert,
    )


def _check_shared(tensors: Collection[Placed], path: Path) -> None:
    """Refuse many tensors in one storage: each is read by itself, into memory of its own."""
    size = sum(placed.size for placed in tensors)
    stored = sum(storage.size for storage in {placed.storage for placed in tensors})
    if size > MAX_SHARING * stored:
        raise WeightsError(
            f"{path}: not read: tensors of {size} bytes share {stored} bytes, expected at most "
            f"{MAX_SHARING} tensors for each"
        )


def _stored(tensors: Mapping[str, Placed], path: Path) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(placed.shape, placed.dtype, functools.partial(_read, placed, path, name))
        for name, placed in tensors.items()
    }


def _scan(file: BufferedReader, path: Path, *, inert: bool) -> Contents:
    head = file.read(len(_OLD_MAGIC))
    if head.startswith(archive.MAGIC):
        return _scan_zip(file, path, inert)
    if head == _OLD_MAGIC:
        return _scan_old(file, path, inert)
    if head.startswith(b"\x80"):
        raise WeightsError(f"{path}: a pickle, but not a PyTorch file; such files are not read")
    raise WeightsError(f"{path}: {instead_of_weights(head) or 'damaged or not a PyTorch file'}")


def _scan_zip(file: BufferedReader, path: Path, inert: bool) -> Contents:
    entries = archive.read_directory(file, path)
    if "data.pkl" not in entries:
        raise WeightsError(f"{path}: a zip file, but not one that torch.save has written")
    if entries["data.pkl"].size > MAX_BYTES:
        raise WeightsError(f"{path}: not read: a pickle of more than {MAX_BYTES} bytes")
    order = _content(file, entries["byteorder"]) if "byteorder" in entries else b"little"
    if order != sys.byteorder.encode():
        raise WeightsError(f"{path}: not read: bytes in another order than this machine's")
    storages: dict[str, Storage] = {}

    def storage(identity: tuple[Any, ...]) -> Storage:
        found = _known_storage(identity, storages)
        entry = entries.get(f"data/{found.key}")
        if entry is None or entry.size != found.size:
            size = "no bytes" if entry is None else f"{entry.size} bytes"
            raise NotAllowedError(
                f"damaged: storage {shown(found.key)} has {size}, expected {found.size}"
            )
        found.start, found.crc32 = entry.offset, entry.crc32
        return found

    content = _content(file, entries["data.pkl"])
    pickle = Pickle(content, path, storage=storage, inert=inert)
    value = pickle.read()
    if pickle.end != len(content):
        raise WeightsError(f"{path}: damaged: bytes after the end of its pickle")
    return Contents("PyTorch", value, tuple(pickle.found))


def _content(file: BufferedReader, entry: archive.Entry) -> bytes:
    file.seek(entry.offset)
    return file.read(entry.size)


def _scan_old(file: BufferedReader, path: Path, inert: bool) -> Contents:
    """Five pickles after each other (magic, version, machine, value, keys), then the storages."""
    storages: dict[str, Storage] = {}
    file.seek(0)
    content = file.read(MAX_BYTES)

    def storage(identity: tuple[Any, ...]) -> Storage:
        if len(identity) != 6 or identity[5] is not None:
            raise NotAllowedError("holds a view of a storage, as PyTorch before 0.4 wrote it")
        return _known_storage(identity[:5], storages)

    version = Pickle(content, path, start=len(_OLD_MAGIC))
    if version.read() != _OLD_VERSION:
        raise WeightsError(f"{path}: not read: an unknown version of PyTorch's old form")
    machine = Pickle(content, path, start=version.end)
    about = machine.read()
    if not isinstance(about, dict) or about.get("little_endian") is not (sys.byteorder == "little"):
        raise WeightsError(f"{path}: not read: bytes in another order than this machine's")
    main = Pickle(content, path, start=machine.end, storage=storage, inert=inert)
    value = main.read()
    keys = Pickle(content, path, start=main.end)
    order = keys.read()
    if (
        not isinstance(order, list)
        or len(order) != len(storages)
        or not all(type(key) is str and key in storages for key in order)
        or len({*order}) != len(order)
    ):
        raise WeightsError(f"{path}: damaged: the storages are not those that the tensors need")
    _locate_old([storages[key] for key in order], keys.end, file, path)
    return Contents("PyTorch before 1.6", value, tuple(main.found))


def _locate_old(storages: list[Storage], at: int, file: BufferedReader, path: Path) -> None:
    """Storages follow each other, each after the number of its elements."""
    size = os.fstat(file.fileno()).st_size
    for storage in storages:
        itemsize = 1 if storage.dtype is None else storage.dtype.itemsize
        count = int.from_bytes(os.pread(file.fileno(), 8, at), "little", signed=True)
        storage.start = at + 8
        at = storage.start + storage.size
        if at > size:
            raise WeightsError(f"{path}: damaged: cut, {size} bytes, expected {at} or more")
        if count * itemsize != storage.size:
            raise WeightsError(
                f"{path}: damaged: storage {shown(storage.key)} has {count} elements, expected "
                f"{storage.size // itemsize}"
            )
    if at != size:
        raise WeightsError(f"{path}: damaged: {size} bytes, expected {at}")


def _known_storage(identity: tuple[Any, ...], storages: dict[str, Storage]) -> Storage:
    """The storage that a persistent id means; the first time it is put into ``storages``."""
    types = tuple(map(type, identity))
    if types != (str, StorageType, str, str, int) or identity[0] != "storage":
        raise NotAllowedError("holds a reference to something outside, which is not read")
    _, kind, key, _, count = identity
    if not 0 <= count < MAX_NUMBER or len(key) > MAX_KEY:
        raise NotAllowedError("holds a storage with a wrong size or name")
    size = count * (1 if kind.dtype is None else kind.dtype.itemsize)
    found = storages.get(key)
    if found is None:
        found = storages[key] = Storage(key, kind.dtype, size)
    if found.dtype is not kind.dtype or found.size != size:
        raise NotAllowedError(f"damaged: storage {shown(key)} with two types or sizes")
    return found


def _read(placed: Placed, path: Path, name: str) -> Tensor:
    """The values of a tensor, from its bytes in the file.

    Raises:
        WeightsError: where they cannot be read or are not those that were written.
    """
    itemsize, storage = placed.dtype.itemsize, placed.storage
    size = placed.span * itemsize
    start = storage.start + placed.offset * itemsize
    content = read_plain(path, name, start, (size,), torch.uint8)
    if size == storage.size:
        crc32 = zlib.crc32(content.numpy().data)
    elif storage.crc32 and not storage.checked:
        crc32 = _crc_of(storage, path)
        storage.checked = crc32 == storage.crc32
    else:
        crc32 = storage.crc32
    if storage.crc32 not in (0, crc32):
        raise WeightsError(
            f"{path}: {name}: damaged: not the bytes that were written (CRC-32 differs)"
        )
    # Of a bool only 0 and 1 are defined.
    flat = content != 0 if placed.dtype == torch.bool else content.view(placed.dtype)
    return flat.as_strided(placed.shape, placed.strides).contiguous()


def _crc_of(storage: Storage, path: Path) -> int:
    """The checksum of a storage that several tensors share."""
    left, crc32 = storage.size, 0
    with opened(path) as file:
        file.seek(storage.start)
        while left and (block := file.read(min(left, 1 << 20))):
            crc32 = zlib.crc32(block, crc32)
            left -= len(block)
    return crc32
