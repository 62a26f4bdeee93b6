# SPDX-License-Identifier: Apache-2.0
"""Open a weights file of any kind."""

from pathlib import Path

from effdet.errors import WeightsError
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
    if not path.is_file():
        what = "a folder without a TensorFlow checkpoint" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {what}")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if head.startswith(_HDF5):
        return open_keras(path)
    if head.startswith((b"PK", b"\x80")):
        return open_torch(path, inert=inert)
    if head[8:9] == b"{":
        return open_safetensors(path)
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            raise WeightsError(f"{path}: a {name} archive; unpack it and name what was in it")
    raise WeightsError(
        f"{path}: not a weights file: expected a PyTorch, safetensors or Keras HDF5 file or a "
        "TensorFlow checkpoint"
    )
