# SPDX-License-Identifier: Apache-2.0
"""What an exported file is, told without running it."""

from pathlib import Path
from typing import Any

from effdet.anchors import num_anchors
from effdet.export.info import INPUT, shapes_of
from effdet.export.kinds import kind_of
from effdet.weights.describe import short_list


def describe_exported(path: Path) -> dict[str, Any]:
    """Form, inputs, outputs, classes and what else a file says of itself, as plain values.

    Raises:
        WeightsError: where it is missing, damaged or of another program.
        ExportError: where the package that reads it is missing.
    """
    form, info = kind_of(path).read(path)
    config = info.model_config
    height, width = config.image_size
    shapes = shapes_of(info, num_anchors(config))
    about = {
        "file": str(path),
        "form": form,
        "program": f"effdet {info.toolkit}",
        "model": config.name,
        "image_size": f"{height} x {width}",
        "mean": list(config.mean),
        "std": list(config.std),
        "input": name_and_shape(INPUT, shapes.pop(INPUT)),
        "outputs": [name_and_shape(name, shape) for name, shape in shapes.items()],
        "post-processing": info.inside or "none",
        "classes": short_list([name for name in info.class_map.names if name is not None]),
        "weights": info.weights,
        "sha256": info.weights_sha256,
        "licence": info.licence,
        "origin": info.origin,
    }
    return {key: value for key, value in about.items() if value != ""}


def name_and_shape(name: str, shape: tuple[int | str, ...]) -> str:
    """An input or output in words, such as ``boxes [1, 100, 4]``."""
    return f"{name} [{', '.join(map(str, shape))}]"
