# SPDX-License-Identifier: Apache-2.0
"""TensorFlow checkpoints without TensorFlow: ``NAME.index`` and ``NAME.data-00000-of-00001``.

Opening reads the index alone and looks at the sizes of the data files; a tensor's bytes are read
and their checksum is verified when it is asked for.
"""

import contextlib
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from effdet.errors import WeightsError
from effdet.weights.formats.beginning import opened
from effdet.weights.formats.bundle import Bundle, Entry, read_bundle
from effdet.weights.formats.crc32c import masked_crc32c
from effdet.weights.formats.plain import read_plain
from effdet.weights.formats.table import has_magic
from effdet.weights.tensor_file import StoredTensor, TensorFile

_PART = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")
_LATEST = re.compile(rb'^\s*model_checkpoint_path:\s*"(?:.*[/\\])?([^"/\\]+)"', re.MULTILINE)
_AVERAGE = re.compile(r"(.+)/ExponentialMovingAverage")
_AVERAGE_SLOT = re.compile(r"(.+)/\.OPTIMIZER_SLOT/.+/average(/\.ATTRIBUTES/VARIABLE_VALUE)")


def is_tensorflow(path: Path) -> bool:
    """Whether ``path`` is a part, the prefix or the folder of a TensorFlow checkpoint."""
    with contextlib.suppress(OSError, ValueError):  # names that no file can have
        if path.is_dir():
            return (path / "checkpoint").is_file() or any(path.glob("*.index"))
        if path.is_file():
            return _PART.fullmatch(path.name) is not None or _ends_as_index(path)
        return path.with_name(f"{path.name}.index").is_file()
    return False


def open_tensorflow(path: str | Path) -> TensorFile:
    """Open a checkpoint by its index, its prefix, one of its data files or its folder.

    Moving averages, ``NAME/ExponentialMovingAverage`` or the slot ``average`` of an optimizer, are
    found under the names of what they average. Entries that are no numbers are left out.

    Raises:
        WeightsError: where a file is missing, damaged, cut off or of an unknown kind.
    """
    index = _find_index(Path(path))
    with opened(index) as file:
        try:
            bundle = read_bundle(file)
        except ValueError as error:
            raise WeightsError(f"{index}: {error}") from error
    data = _Data(_data_files(index, bundle), bundle)
    stored = {
        entry.name: StoredTensor(entry.shape, entry.dtype, functools.partial(data.read, entry))
        for entry in bundle.entries
        if entry.dtype is not None
    }
    tensors, averages = _apart(stored)
    return TensorFile(path=index, form="TensorFlow checkpoint", tensors=tensors, averages=averages)


def _find_index(path: Path) -> Path:
    if path.is_dir():
        return _index_in(path)
    if path.is_file() and _ends_as_index(path):
        return path
    part = _PART.fullmatch(path.name)
    index = path.with_name(f"{part[1] if part else path.name}.index")
    if not index.is_file():
        raise WeightsError(f"{path}: no TensorFlow checkpoint: there is no {index.name} beside it")
    return index


def _index_in(folder: Path) -> Path:
    """The index that the folder's file ``checkpoint`` names, or the only one."""
    latest = folder / "checkpoint"
    if latest.is_file():
        with latest.open("rb") as file:
            found = _LATEST.search(file.read(2**16))
        if found is not None:
            index = folder / f"{os.fsdecode(found[1])}.index"
            if not index.is_file():
                raise WeightsError(f"{latest}: names {index.name}, which is not in the folder")
            return index
    indices = sorted(folder.glob("*.index"))
    if len(indices) != 1:
        names = ", ".join(index.name for index in indices[:5]) or "none"
        raise WeightsError(f"{folder}: expected one TensorFlow index, found {names}; name one")
    return indices[0]


def _ends_as_index(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return has_magic(file)
    except OSError:
        return False


def _data_files(index: Path, bundle: Bundle) -> dict[int, Path]:
    """The data files that entries lie in; all are there and long enough."""
    prefix = index.name.removesuffix(".index")
    files: dict[int, Path] = {}
    sizes: dict[int, int] = {}
    for entry in bundle.entries:
        shard = entry.shard
        if shard not in files:
            path = index.with_name(f"{prefix}.data-{shard:05d}-of-{bundle.num_shards:05d}")
            if not path.is_file():
                raise WeightsError(f"{path}: missing; {index.name} needs it for {entry.name}")
            files[shard], sizes[shard] = path, path.stat().st_size
        if entry.offset + entry.size > sizes[shard]:
            raise WeightsError(
                f"{files[shard]}: cut off at {sizes[shard]} bytes: {entry.name} has {entry.size} "
                f"at {entry.offset}; get the file again"
            )
    return files


class _Data:
    """The data files, read a tensor at a time.

    With the first tensor the system is asked for all that are likely to follow, so that the disk
    goes on while checksums and layouts are worked on.
    """

    def __init__(self, files: Mapping[int, Path], bundle: Bundle) -> None:
        self._files = files
        self._ahead: dict[bool, list[Entry]] = {False: [], True: []}
        for entry in bundle.entries:
            self._ahead[_is_average(entry)].append(entry)

    def read(self, entry: Entry) -> Tensor:
        """The values of a variable, which have their checksum."""
        self._ask_for(self._ahead.pop(_is_average(entry), []))
        path = self._files[entry.shard]
        assert entry.dtype is not None
        values = read_plain(path, entry.name, entry.offset, entry.shape, entry.dtype)
        if masked_crc32c(values.reshape(-1).view(torch.uint8).numpy()) != entry.crc32c:
            raise WeightsError(
                f"{path}: damaged: the checksum of {entry.name} is wrong; get the file again"
            )
        return values

    def _ask_for(self, entries: Sequence[Entry]) -> None:
        if not hasattr(os, "posix_fadvise"):
            return
        for shard in {entry.shard for entry in entries}:
            with contextlib.suppress(OSError), self._files[shard].open("rb") as file:
                for entry in entries:
                    if entry.shard == shard:
                        place = (file.fileno(), entry.offset, entry.size)
                        os.posix_fadvise(*place, os.POSIX_FADV_WILLNEED)


def _is_average(entry: Entry) -> bool:
    return any(pattern.fullmatch(entry.name) for pattern in (_AVERAGE, _AVERAGE_SLOT))


def _apart(
    stored: Mapping[str, StoredTensor],
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """Tensors and averages; an average of nothing that is there stands for the tensor itself."""
    tensors, averages = {}, {}
    for name, tensor in stored.items():
        if found := _AVERAGE.fullmatch(name):
            averages[found[1]] = tensor
        elif found := _AVERAGE_SLOT.fullmatch(name):
            averages[found[1] + found[2]] = tensor
        else:
            tensors[name] = tensor
    return averages | tensors, averages
