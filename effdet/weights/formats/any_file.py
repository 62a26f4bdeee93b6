# SPDX-License-Identifier: Apache-2.0
"""Open a weights file of any kind."""

from pathlib import Path

from effdet.errors import WeightsError
from effdet.weights.formats.beginning import instead_of_weights, read_head
from effdet.weights.formats.keras import open_keras
from effdet.weights.formats.safetensors_file import open_safetensors
from effdet.weights.formats.tensorflow import is_tensorflow, open_tensorflow
from effdet.weights.formats.torch_file import open_torch
from effdet.weights.tensor_file import TensorFile

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ARCHIVES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z"}


def open_file(path: Path, *, inert: bool = False) -> TensorFile:
    """Open a weights file of any kind; which one is told by its first and last bytes.

    Args:
        path: a file, or for TensorFlow checkpoints also their folder or prefix.
        inert: read a few kinds of objects of PyTorch files as lifeless stand-ins.

    Raises:
        WeightsError: where it is missing, damaged or of no known kind.
    """
    if is_tensorflow(path):
        return open_tensorflow(path)
    head = read_head(path)
    if head.startswith(_HDF5):
        return open_keras(path)
    if head[8:9] == b"{":  # before it stands a length, which may begin like a pickle
        return open_safetensors(path)
    if head.startswith((b"PK", b"\x80")):
        return open_torch(path, inert=inert)
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            raise WeightsError(f"{path}: a {name} archive; unpack it and name what was in it")
    if instead := instead_of_weights(head):
        raise WeightsError(f"{path}: {instead}")
    raise WeightsError(
        f"{path}: not a weights file: expected a PyTorch, safetensors or Keras HDF5 file or a "
        "TensorFlow checkpoint"
    )
