# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's intermediate representation: ``NAME.xml`` with the graph, ``NAME.bin`` beside it."""

import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdet.errors import ExportError, WeightsError, one_line, printable
from effdet.export.info import INPUT, KEY, OUTPUTS, ExportInfo
from effdet.export.onnx_file import Runner
from effdet.extras import import_extra
from effdet.files.regular import open_regular

MAX_XML_BYTES = 100_000_000
MAX_BIN_BYTES = 2**33


def import_openvino(what: str) -> ModuleType:
    """The module ``openvino``, which then sends nothing.

    ``import openvino`` reports itself to a server through the package ``openvino_telemetry``, and
    so does its ``convert_model``. Where that package cannot be imported, OpenVINO has a stub for
    it; so it is made not to be there. (Whoever has imported openvino before has let it report.)
    """
    if "openvino" not in sys.modules:
        # None is how Python marks a module that is not to be imported.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_extra("openvino", "openvino", what, ExportError)


def save_openvino(onnx_content: bytes, info: ExportInfo, path: Path) -> None:
    """Write ``path`` (.xml) and its .bin, in float32, from the content of an ONNX file.

    Raises:
        ExportError: where openvino is missing or refuses the graph.
    """
    openvino = import_openvino("export to OpenVINO")
    beside = path.with_suffix(".onnx")  # read_model of bytes is not in every version
    beside.write_bytes(onnx_content)
    try:
        model = openvino.Core().read_model(str(beside))
        model.set_rt_info(info.to_text(), [KEY])
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO: {one_line(error)}") from error
    finally:
        beside.unlink()


def read_openvino(path: Path) -> tuple[Any, Any, ExportInfo]:
    """OpenVINO's core, the model in its files, and what it says of itself.

    Raises:
        WeightsError: for files that are missing, damaged or of another program.
        ExportError: where openvino is missing.
    """
    openvino = import_openvino("reading an OpenVINO file")
    name = printable(str(path))
    _check_whole(path)
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
        text = model.get_rt_info([KEY]).value if model.has_rt_info([KEY]) else None
    except RuntimeError as error:
        raise WeightsError(f"{name}: OpenVINO: {one_line(error)}") from error
    if not isinstance(text, str):
        raise WeightsError(
            f"{name}: an OpenVINO file, but not one that `effdet export` wrote (no {KEY!r} in its "
            "rt_info)"
        )
    return core, model, ExportInfo.from_text(text, path)


def _check_whole(path: Path) -> None:
    """Name the file of the two that is missing, cut short or something else.

    Raises:
        WeightsError: naming it.
    """
    graph, weights = path, path.with_suffix(".bin")
    name = printable(str(graph))
    with open_regular(graph, "OpenVINO file", WeightsError, MAX_XML_BYTES) as file:
        text = file.read(MAX_XML_BYTES).strip()
    if not text:
        raise WeightsError(f"{name}: an empty file, expected an OpenVINO file; copy it again")
    if not text.startswith(b"<"):
        raise WeightsError(f"{name}: damaged, or no OpenVINO file: it is no XML")
    if not text.endswith(b"</net>"):
        raise WeightsError(f"{name}: damaged, or no OpenVINO file: no </net> at its end")
    needed = max(map(_end, re.findall(rb"<data\b([^<>]*)>", text)), default=0)
    with open_regular(weights, "OpenVINO file", WeightsError, MAX_BIN_BYTES) as file:
        found = file.seek(0, os.SEEK_END)
    if found < needed:
        raise WeightsError(
            f"{printable(str(weights))}: cut short: {found:,} bytes, where {graph.name!r} needs "
            f"{needed:,}; copy both files again"
        )


def _end(attributes: bytes) -> int:
    """Where the part of the .bin ends that an element of the graph is about; 0 for none."""
    numbers = [
        re.search(rb"\b" + key + rb'="(\d{1,18})"', attributes) for key in (b"offset", b"size")
    ]
    return sum(int(number[1]) for number in numbers if number) if all(numbers) else 0


def openvino_runner(path: Path) -> tuple[Runner, ExportInfo]:
    """A function that runs the files on the CPU in float32, with as many threads as torch has.

    Raises:
        WeightsError, ExportError: as :func:`read_openvino`.
    """
    core, model, info = read_openvino(path)
    return _compile(core, model, info, printable(str(path))), info


def _compile(core: Any, model: Any, info: ExportInfo, name: str) -> Runner:
    # Left to itself, OpenVINO computes in bfloat16 where the processor has it.
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        request = core.compile_model(model, "CPU", config).create_infer_request()
        outputs = [request.get_compiled_model().output(output) for output in OUTPUTS[info.outputs]]
    except RuntimeError as error:
        raise WeightsError(f"{name}: OpenVINO: {one_line(error)}") from error

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = request.infer({INPUT: images.numpy()})
        return tuple(torch.from_numpy(np.array(found[output])) for output in outputs)

    return run
