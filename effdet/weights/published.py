# SPDX-License-Identifier: Apache-2.0
"""Weights for use and sharing: a safetensors file whose metadata say all that using them takes.

Every program that reads safetensors reads these tensors, and the metadata as strings of JSON:

``format``, ``version``
    ``effdet`` and the version of this list.
``model_config``, ``class_map``
    What builds the model, and the name and data set's id of each class output.
``preprocessing``
    From an image to the network's input, for programs that are not this one.
``metrics``, ``training``
    COCO figures, and how the weights were trained, as far as known.
``licence``, ``origin``
    In words, not JSON.
``digest``
    SHA-256 of the file with 64 zeros in the place of the digest itself.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.errors import WeightsError
from effdet.files import write_atomically
from effdet.files.regular import hash_rest
from effdet.weights.checkpoint import Checkpoint
from effdet.weights.digest import compare_digest
from effdet.weights.entries import check_no_nan, check_state, read_entries
from effdet.weights.formats.beginning import opened
from effdet.weights.formats.safetensors_file import (
    DTYPES,
    METADATA,
    metadata_of,
    open_safetensors,
    read_header,
)
from effdet.weights.storable import check_finite, storable
from effdet.weights.translate import our_shapes

FORMAT = "effdet"
VERSION = 1

_JSON = ("model_config", "class_map", "preprocessing", "metrics", "training")
_TEXT = ("licence", "origin")
_DIGEST = re.compile(rb'"digest":"sha256:([0-9a-f]{64})"')
_NO_DIGEST = b"0" * 64
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def save_published(
    checkpoint: Checkpoint,
    path: str | Path,
    *,
    licence: str | None = None,
    origin: str | None = None,
) -> None:
    """Write the chosen weights of ``checkpoint``; ``path`` always holds a whole file.

    Args:
        checkpoint: what to write; its state to resume from is left out.
        path: of the file, which ends with ``.safetensors`` by custom.
        licence: of the weights, where it is not the checkpoint's.
        origin: where they came from (program, file, its SHA-256), likewise.

    Raises:
        DivergedError: where a tensor is not finite; nothing is written.
        WriteError: with the system's reason; the old file is untouched.
    """
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "licence": checkpoint.licence if licence is None else licence,
        "origin": checkpoint.origin if origin is None else origin,
        **{name: _to_json(value) for name, value in _description(checkpoint).items()},
    }
    write_with_digest(checkpoint.best_weights(), metadata, path)


def write_with_digest(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], path: str | Path
) -> None:
    """Write tensors and strings as a safetensors file with a digest of its bytes.

    Raises:
        DivergedError, WriteError: as :func:`save_published`.
    """
    check_finite(state, path)
    # Larger elements first, so that each tensor begins at a multiple of its element's size.
    names = sorted(state, key=lambda name: (-state[name].dtype.itemsize, name))
    metadata = {**metadata, "digest": f"sha256:{_NO_DIGEST.decode()}"}
    header = _header({name: state[name] for name in names}, metadata)
    digest = hashlib.sha256(header)
    for name in names:
        digest.update(_bytes(state[name]))
    header = header.replace(_NO_DIGEST, digest.hexdigest().encode(), 1)

    def write(file: Any) -> None:
        file.write(header)
        for name in names:
            file.write(_bytes(state[name]))

    size = len(header) + sum(tensor.nbytes for tensor in state.values())
    write_atomically(path, write, size=size)


def is_published(path: str | Path) -> bool:
    """Whether the file is one of :func:`save_published`, damaged or not."""
    try:
        return metadata_of(Path(path)).get("format") == FORMAT
    except WeightsError:
        return False


def published_values(metadata: Mapping[str, str], path: str | Path) -> dict[str, Any]:
    """The metadata of a file as plain values, under the names that checkpoints have.

    Raises:
        WeightsError: where one is missing or damaged.
    """
    values: dict[str, Any] = {name: metadata.get(name, "") for name in _TEXT}
    for name in _JSON:
        try:
            values[name] = json.loads(metadata[name])
        except (KeyError, ValueError, RecursionError) as error:
            raise WeightsError(f"{path}: metadata {name} are missing or no JSON") from error
        if not isinstance(values[name], dict):
            raise WeightsError(f"{path}: metadata {name} are no names with values")
    return values


def load_published(path: str | Path) -> Checkpoint:
    """Read a file of :func:`save_published`; any byte that was changed since is found.

    Raises:
        WeightsError: where it is missing, damaged, foreign or from a later version.
    """
    path = Path(path)
    metadata = metadata_of(path)
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: not published by this toolkit, its metadata do not say so")
    version = metadata.get("version", "")
    if re.fullmatch("[0-9]{1,9}", version) is None:
        raise WeightsError(f"{path}: damaged: metadata without a version")
    if int(version) > VERSION:
        raise WeightsError(
            f"{path}: published weights of version {version}, this toolkit reads up to {VERSION}; "
            "upgrade effdet-toolkit"
        )
    check_published_digest(path)
    values = published_values(metadata, path)
    tensors = open_safetensors(path).tensors
    config, class_map = read_entries(values, path)
    check_state(tensors, our_shapes(config), path)
    state = {name: stored.read() for name, stored in tensors.items()}
    check_no_nan(state, path)
    return Checkpoint(
        model_config=config,
        class_map=class_map,
        model=state,
        ema=None,
        chosen="raw",
        metrics=values["metrics"],
        training={},
        licence=values["licence"],
        origin=values["origin"],
        summary=values["training"],
    )


def check_published_digest(path: Path) -> None:
    """Compare the file with the digest in it.

    Raises:
        WeightsError: where there is none, or the bytes are not those that were written.
    """
    header = read_header(path)
    found = list(_DIGEST.finditer(header))
    if len(found) != 1:
        raise WeightsError(f"{path}: damaged: its SHA-256 is missing or changed")
    start, end = found[0].span(1)
    blank = len(header).to_bytes(8, "little") + header[:start] + _NO_DIGEST + header[end:]
    with opened(path) as file:
        file.seek(8 + len(header))
        compare_digest(found[0][1], hash_rest(file, blank), path)


def _header(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The length of the header and the header, padded with blanks to a multiple of 8."""
    entries: dict[str, Any] = {METADATA: dict(metadata)}
    at = 0
    for name, tensor in state.items():
        entries[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    content = json.dumps(entries, separators=(",", ":")).encode()
    content = content.ljust(-(-len(content) // 8) * 8)
    return len(content).to_bytes(8, "little") + content


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.model_config
    return {
        "model_config": config.to_dict(),
        "class_map": checkpoint.class_map.to_dict(),
        "preprocessing": {
            "channel_order": "RGB",
            "range": [0, 255],
            "mean": list(config.mean),
            "std": list(config.std),
            "image_size": list(config.image_size),
            "resize": {
                "rule": "the whole image as large as fits, sizes rounded down",
                "interpolation": "bilinear, half-pixel centres, no antialias",
                "position": "top left",
                "fill": "0 after normalisation",
            },
            "tensor": "float32 [1, 3, height, width]: (value - mean) / std",
        },
        "metrics": checkpoint.metrics,
        "training": _summary(checkpoint),
    }


def _summary(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Epochs, steps and data of the training, without the machine's folders."""
    if checkpoint.summary or not checkpoint.training:
        return checkpoint.summary
    config = checkpoint.training.get("config", {})
    summary = {
        "epochs": checkpoint.metrics.get("epoch"),
        "steps": checkpoint.training.get("step"),
        "data": Path(config["data"]).name if "data" in config else None,
        "split": config.get("train_split"),
    }
    return {name: value for name, value in summary.items() if value is not None}


def _to_json(value: Any) -> str:
    return json.dumps(_finite(storable(value)), allow_nan=False)


def _finite(value: Any) -> Any:
    """``value`` with None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
