# SPDX-License-Identifier: Apache-2.0
"""What an exported file is, told without running it."""

from pathlib import Path
from typing import Any

from effdet.anchors import num_anchors
from effdet.export.info import INPUT, ExportInfo, shapes_of
from effdet.export.onnx_file import read_onnx
from effdet.export.openvino_file import read_openvino
from effdet.export.programs import read_program_info
from effdet.weights.describe import short_list

PROGRAMS = {"torch-export": "program of torch.export", "aoti": "package of AOTInductor"}


def describe_exported(path: Path) -> dict[str, Any]:
    """Form, inputs, outputs, classes and what else a file says of itself, as plain values.

    Raises:
        WeightsError: where it is missing, damaged or of another program.
        ExportError: where the package that reads it is missing.
    """
    form, info = _read(path)
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
        "input": _shape(INPUT, shapes.pop(INPUT)),
        "outputs": [_shape(name, shape) for name, shape in shapes.items()],
        "post-processing": info.inside or "none",
        "classes": short_list([name for name in info.class_map.names if name is not None]),
        "weights": info.weights,
        "sha256": info.weights_sha256,
        "licence": info.licence,
        "origin": info.origin,
    }
    return {key: value for key, value in about.items() if value != ""}


def _read(path: Path) -> tuple[str, ExportInfo]:
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        kind, info = read_program_info(path)
        return PROGRAMS[kind], info
    if suffix == ".xml":
        return "OpenVINO", read_openvino(path)[2]
    return "ONNX", read_onnx(path)[1]


def _shape(name: str, shape: tuple[int | str, ...]) -> str:
    return f"{name} [{', '.join(map(str, shape))}]"
