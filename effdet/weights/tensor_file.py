# SPDX-License-Identifier: Apache-2.0
"""What any weights file is to the rest of the package: named tensors that are read one by one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file.

    Attributes:
        shape: as stored.
        dtype: as stored.
        read: gives the values, on the CPU, checked as far as the format has checksums. Raises
            :class:`~effdet.errors.WeightsError` that names the file and the tensor.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor] = field(compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """A weights file that was opened: its names are those of the program that wrote it.

    Attributes:
        path: of the file, or of the first of several.
        form: how it is stored, in words: ``TensorFlow checkpoint``, ``safetensors``, ...
        tensors: by name.
        averages: moving averages of some of ``tensors``, under the same names; often none.
        values: plain values that stand beside the tensors, by name.
        inert: kinds of other objects that were read as lifeless stand-ins, such as
            ``argparse.Namespace``.
    """

    path: Path
    form: str
    tensors: Mapping[str, StoredTensor]
    averages: Mapping[str, StoredTensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    inert: tuple[str, ...] = ()

    def best(self, use_ema: bool = True) -> dict[str, StoredTensor]:
        """The averages where there are some, and the tensors themselves for the rest."""
        return {**self.tensors, **(self.averages if use_ema else {})}
