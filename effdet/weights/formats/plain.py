# SPDX-License-Identifier: Apache-2.0
"""A tensor whose values stand in a file as they are in memory."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from effdet.errors import WeightsError


def read_plain(
    path: Path, name: str, offset: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """The tensor at ``offset`` bytes, read straight into its memory.

    Raises:
        WeightsError: where the file cannot be read or ends before; ``name`` is of the tensor.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        whole = path.stat().st_size >= offset + size
        values = np.fromfile(path, np.uint8, size, offset=offset) if whole else None
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"{path}: {name} cannot be read ({reason})") from error
    if values is None or len(values) != size:
        raise WeightsError(f"{path}: cut off before the end of {name}; get the file again")
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(values).view(dtype).reshape(shape)
