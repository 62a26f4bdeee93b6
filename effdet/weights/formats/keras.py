# SPDX-License-Identifier: Apache-2.0
"""Keras weights in HDF5: ``{layer}/{variable}:0``, one plain dataset a variable.

Only datasets are looked at: no attribute, no link to elsewhere, nothing that has to be unpacked.
"""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effdet.errors import WeightsError
from effdet.extras import import_extra
from effdet.weights.formats.beginning import read_head
from effdet.weights.formats.pickled_values import shown
from effdet.weights.formats.plain import read_plain
from effdet.weights.tensor_file import StoredTensor, TensorFile

_DTYPES = {
    np.dtype(name): getattr(torch, name)
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")
}
_DEEPEST = 32
_MOST_OBJECTS = 10_000
"""Groups and datasets, as often as there is a way to them: links can make a few any number."""


def open_keras(path: str | Path) -> TensorFile:
    """Open weights that Keras saved as ``.h5``; names are those of the variables.

    Raises:
        WeightsError: where h5py is not installed, or the file is missing, damaged or holds anything
            but plain datasets.
    """
    path = Path(path)
    read_head(path)  # says what is wrong with other than regular files
    h5py = import_extra("h5py", "keras", f"{path}: a Keras file", WeightsError)
    tensors: dict[str, StoredTensor] = {}
    try:
        with h5py.File(path, "r") as file:
            if file.userblock_size:
                raise WeightsError(
                    f"{path}: begins with {file.userblock_size} bytes that are not Keras's"
                )
            for place, dataset in _datasets(h5py, file, "", path, itertools.count()):
                name = place.partition("/")[2].removesuffix(":0")
                if not name or name in tensors:
                    raise WeightsError(
                        f"{path}: {place}: expected datasets named layer/variable:0, each once"
                    )
                tensors[name] = _stored(path, place, dataset)
    except WeightsError:
        raise
    except Exception as error:  # there is no end to what damaged bytes make a reader raise
        raise WeightsError(f"{path}: damaged or not an HDF5 file ({shown(str(error))})") from error
    return TensorFile(path=path, form="Keras HDF5", tensors=tensors)


def _datasets(
    h5py: Any, group: Any, prefix: str, path: Path, count: Iterator[int]
) -> Iterator[tuple[str, Any]]:
    """All datasets below ``group`` by their place in the file; ``count`` is of all objects."""
    if prefix.count("/") > _DEEPEST:
        raise WeightsError(f"{path}: groups within groups, {_DEEPEST} deep")
    for key in group:
        place = f"{prefix}{key}"
        if next(count) >= _MOST_OBJECTS:
            raise WeightsError(f"{path}: not read: more than {_MOST_OBJECTS} groups and datasets")
        if type(group.get(key, getlink=True)) is not h5py.HardLink:
            raise WeightsError(f"{path}: {place} is a link to elsewhere, which is not followed")
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _datasets(h5py, item, f"{place}/", path, count)
        elif isinstance(item, h5py.Dataset):
            yield place, item
        else:
            raise WeightsError(f"{path}: {place} is neither a group nor a dataset")


def _stored(path: Path, place: str, dataset: Any) -> StoredTensor:
    """Refused is what is not there byte by byte, as a small file could ask for any memory."""
    if dataset.dtype not in _DTYPES or dataset.shape is None:
        raise WeightsError(f"{path}: {place} has the type {dataset.dtype}, expected numbers")
    size, offset = dataset.size * dataset.dtype.itemsize, dataset.id.get_offset()
    if size and offset is None:
        raise WeightsError(
            f"{path}: {place} is not stored as {size} plain bytes; save the weights again without "
            "compression, chunks and virtual or external data"
        )
    shape, dtype = tuple(dataset.shape), _DTYPES[dataset.dtype]
    read = functools.partial(read_plain, path, place, offset or 0, shape, dtype)
    return StoredTensor(shape, dtype, read)
