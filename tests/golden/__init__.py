# SPDX-License-Identifier: Apache-2.0
"""What the reference implementation gave, and the deterministic weights and inputs behind it.

``*.index`` are index files of checkpoints that google/automl published (Apache-2.0).
"""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent


def uniform(count: int, seed: int) -> np.ndarray:
    """``count`` float64 values in [0, 1) from an integer hash of (index, seed)."""
    x = np.arange(count, dtype=np.uint32)
    x *= np.uint32(2654435761)
    x += np.uint32(seed)
    x ^= x >> np.uint32(16)
    x *= np.uint32(2246822519)
    x ^= x >> np.uint32(13)
    x *= np.uint32(3266489917)
    x ^= x >> np.uint32(16)
    return x / 2**32


def variable(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value that variable ``name`` had in the reference run, in TensorFlow's layout."""
    unit = uniform(int(np.prod(shape, dtype=np.int64)), zlib.crc32(name.encode()))
    centered = 2 * unit - 1
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "gamma":
        values = 1 + 0.2 * centered
    elif leaf == "moving_variance":
        values = 0.5 + unit
    elif leaf in ("beta", "moving_mean", "bias"):
        values = 0.1 * centered
    elif leaf.startswith("WSM"):
        values = 1 + 0.5 * centered
    else:
        fan_in = np.prod(shape[:2]) if leaf == "depthwise_kernel" else np.prod(shape[:-1])
        values = centered * np.sqrt(4.5 / fan_in)
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every variable of ``model`` (such as ``efficientdet-d0``)."""
    rows = [line.split("\t") for line in (FOLDER / f"{model}.tsv").read_text().splitlines()]
    return {
        name: () if shape == "scalar" else tuple(map(int, shape.split("x")))
        for name, shape, *_ in rows
    }


def variables(model: str) -> dict[str, Tensor]:
    """Every variable of ``model`` with its value."""
    return {name: variable(name, shape) for name, shape in shapes(model).items()}


def image(height: int, width: int) -> Tensor:
    """The normalised input ``[1, 3, height, width]`` of the reference run."""
    values = (4 * uniform(height * width * 3, 12345) - 2).reshape(1, height, width, 3)
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)


def lines(prefix: str) -> list[str]:
    """The lines of ``golden.txt`` that start with ``prefix``, without it."""
    text = (FOLDER / "golden.txt").read_text().replace("\n [", " [")
    found = [line.removeprefix("GOLD ") for line in text.splitlines()]
    return [line.removeprefix(prefix).strip() for line in found if line.startswith(prefix)]


def listing(name: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of another program's model, such as ``timm/efficientnet_b0``.

    A line ``NAME.*`` with a number of channels stands for the five tensors of a batch norm. Listed
    by running timm 1.0.31, torchvision 0.29.1, effdet 0.4.1 (rwightman), efficientnet-pytorch 0.7.1
    and efficientnet-lite-pytorch 0.1.0; zylo117's and NVIDIA's follow from their source.
    """
    found: dict[str, tuple[int, ...]] = {}
    for line in (FOLDER / f"{name}.tsv").read_text().splitlines():
        key, shape = line.split("\t")
        sizes = tuple(map(int, shape.split("x")))
        if key.endswith(".*"):
            norm = ("weight", "bias", "running_mean", "running_var")
            found |= {f"{key[:-1]}{leaf}": sizes for leaf in norm}
            found[f"{key[:-1]}num_batches_tracked"] = ()
        else:
            found[key] = sizes
    return found
